"""What to do about a draft that is never used, that guesses, or that does not pay."""

from collections.abc import Iterable

from fastvlm_bench.analysis.arms import Arm
from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.analysis.summary import Row

LOW_ALPHA = 0.05


def untrained(row: Row, arm: Arm, where: str) -> Iterable[Notice]:
    """A warning where drafts are never used, always right or hardly ever. where: the suite and method, in words."""
    if not row.settings.compared:  # it drafts with the target itself, so α = 1 is what one expects
        return
    if not (arm.method.get("draft") or (arm.method.get("options") or {}).get("gamma")) or not row.acceptance.rounds:
        return
    alpha = row.acceptance.alpha
    if not row.acceptance.drafted_per_round:
        yield Notice("UntrainedDraft", f"{where}: the draft was never used; lower stop_below=, or train the draft")
    elif alpha == 1.0:
        other = _other_draft(arm, cheaper=True)
        yield Notice("UntrainedDraft", f"{where}: every tested draft was accepted: the draft equals its "
                     f"target, or a count is wrong; try {other}, or raise --limit")  # fmt: skip
    elif alpha is not None and alpha < LOW_ALPHA:
        yield Notice("UntrainedDraft", f"{where}: α is {alpha:.3f}, the draft guesses; {better_draft(arm)}")


def _skips(arm: Arm) -> bool:
    """Whether it drafts with sub-layers of the target skipped."""
    return "skip" in (arm.method.get("options") or {}) or "mlp" in (arm.method.get("draft") or {})


def _other_draft(arm: Arm, *, cheaper: bool) -> str:
    """What gives a cheaper draft, or a better one."""
    options = arm.method.get("options") or {}
    if "skip" in options:
        return "a larger skip=" if cheaper else "a smaller skip="
    if _skips(arm):
        return "another set, by skip-search"
    if "model" in options:
        return f"a {'smaller' if cheaper else 'larger'} model="
    if options.get("exit_layer") is None:
        return "another draft"
    return "a lower exit_layer=" if cheaper else "a higher exit_layer="


def better_draft(arm: Arm) -> str:
    """What to do about a draft that guesses. A head of somebody else's may count the target's states otherwise."""
    draft, options = arm.method.get("draft") or {}, arm.method.get("options") or {}
    if "kind" in draft:
        ids = [int(number) for number in str(draft.get("states") or "").split("-") if number]
        near = ["aux=" + "-".join(str(i + by) for i in ids) for by in (-1, 1) if ids and min(ids) + by >= 0]
        otherwise = f", or may count its states otherwise: try {' or '.join(near)}" if near else ""
        return f"the head may be another target's{otherwise}"
    trained = "head" in options and not _skips(arm)
    return f"{'train it for this target, or ' if trained else ''}choose {_other_draft(arm, cheaper=False)}"


def slowness_cause(row: Row) -> str:
    """Why a row is slower than its reference, and what to try."""
    own, alpha = row.acceptance, row.acceptance.alpha
    passes_s = (own.drafted_per_round or 0.0) * (row.costs.draft_s_per_token or 0.0) + (
        row.costs.verify_s_per_round or 0
    )
    if alpha is not None and (own.tau or 0.0) * (row.costs.standard_s_per_token or 0.0) > passes_s:
        return (
            "its passes alone are faster, so the loop around the model loses it; try a larger model, or --device cuda"
        )
    if alpha is not None and alpha < 0.5:
        return f"α is {alpha:.2f}, most drafting is wasted; try a smaller gamma=, or train the draft"
    if alpha is None:
        return "it drafts nothing, so only its own loop can be the cause; no flag helps"
    return "drafting and verifying cost more than they save; try a lower exit_layer=, or a smaller gamma="
