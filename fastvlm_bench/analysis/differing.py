"""Says of outputs that differ from the reference's why they do, and of how many: rounding, the model, or the method."""

from collections.abc import Iterable, Sequence

from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.method_spec import CONTROL

MOST_NAMED = 3


def differing_notices(row: Row, rows: Sequence[Row]) -> Iterable[Notice]:
    """Notices of a lossless method's outputs that differ. rows: all of the run, among them the control's."""
    same, where = row.sameness, f"{row.suite}, {row.method}"
    if not same.diverged or not row.settings.lossless:
        return
    beside = _beside(row, rows)
    which = f"{_share(row)} differ from {row.reference} (sample@token "
    which += f"{some(same.diverged)})"
    judged = (same.near_ties or 0) + (same.unsteady or 0) + (same.violations or 0)
    if same.violations or judged < len(same.diverged):
        yield Notice("Diverged", f"{where}: {which}{_counts(row)}; {_cause(row)}{beside}")
    if same.near_ties:
        margin = "" if same.near_tie_margin is None else (
            f": the largest gap is {same.near_tie_margin:.2f} of what the target's own rounding explains"
        )  # fmt: skip
        why = f"{row.settings.dtype} rounds a block of tokens unlike single ones, which is no fault of the method"
        yield Notice("NearTies", f"{where}: {which}, {same.near_ties} by near-ties{margin}; {why}{beside}")
    if same.unsteady:
        yield Notice("UnsteadyTarget", f"{where}: {which}, {same.unsteady} by the model's own doing: without any "
                     "method, it chooses other tokens when it reads several at once, by more than rounding; no fault "
                     f"of the method, but do not call its output lossless on this model{beside}")  # fmt: skip


def other_contexts(row: Row) -> Iterable[Notice]:
    """A notice of turns that a method was asked after answers of its own that differ from the reference's."""
    if count := row.sameness.other_contexts:
        yield Notice("OtherContexts", f"{row.suite}, {row.method}: {count} of {row.counts.turns} turns follow other "
                     f"answers than {row.reference}'s, so that they answer another prompt; their seconds and scores "
                     "are of that")  # fmt: skip


def invalid_reason(row: Row) -> str | None:
    """Why the differing outputs of a lossless method make the run INVALID; None where they do not.

    Only a violation does, in every dtype. In records of 0.1 no output was judged: in float32 each that differs counts.
    """
    same, where = row.sameness, f"{row.suite}, {row.method}"
    if same.violations:
        return f"{where}: {same.violations} outputs have a token that the target would not have chosen"
    unjudged = same.near_ties is None and same.violations is None
    if row.settings.lossless and row.settings.dtype == "float32" and same.diverged and unjudged:
        return (
            f"{where}: {len(same.diverged)} outputs of a lossless method differ from {row.reference} in float32, and "
            "none was judged"
        )
    return None


def _share(row: Row) -> str:
    """How many outputs differ: "3 of 50 outputs", or "3 outputs of 50 samples" where a sample has several."""
    several = row.counts.turns > row.counts.samples
    words = "outputs of {} samples" if several else "of {} outputs"
    return f"{len(row.sameness.diverged)} {words.format(row.counts.samples_paired)}"


def some(items: Sequence[str]) -> str:
    """Up to three of the items, and how many more there are."""
    more = len(items) - MOST_NAMED
    return ", ".join(items[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _beside(row: Row, rows: Sequence[Row]) -> str:
    """On how many samples the method and the control differ, where the run has a control: what numerics alone do."""
    if row.settings.method_name == CONTROL:
        return ""
    told = [
        f"; {row.method} differs on {len(row.sameness.diverged)} of {row.counts.samples_paired}, {other.method} on "
        f"{len(other.sameness.diverged)} of {other.counts.samples_paired}"
        for other in rows if other.settings.method_name == CONTROL and other.suite == row.suite
    ]  # fmt: skip
    return told[0] if told else ""


def _counts(row: Row) -> str:
    same = row.sameness
    if same.near_ties is None and same.violations is None:
        return ""
    unsteady = f"{same.unsteady} unsteady, " if same.unsteady else ""
    unchecked = f", {same.unchecked} unchecked" if same.unchecked else ""
    return f", {same.near_ties or 0} near-ties, {unsteady}{same.violations or 0} violations{unchecked}"


def _cause(row: Row) -> str:
    causes = []
    if row.sameness.violations:
        causes += ["a violation is a token that the target would not have chosen, a fault of the method: report it"]
    if row.sameness.unchecked or (row.sameness.near_ties is not None and not causes):
        causes += ["the others could not be judged, see `losslessness` in samples.jsonl; run again with more free "
                   "memory"]  # fmt: skip
    if causes:
        return "; ".join(causes)
    if row.settings.dtype == "float32":
        return "in float32 that is a fault of the method: report it"
    return (
        f"{row.settings.dtype} rounds a block of tokens unlike single ones; check with --dtype float32, or -m control"
    )
