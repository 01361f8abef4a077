"""What is said of the methods of a run: a sentence on each lossless one, and on the fastest of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastvlm_bench.analysis.sameness import Sameness
from fastvlm_bench.analysis.speedup import E2E, FEWEST_SAMPLES, common
from fastvlm_bench.analysis.statistics import Estimate
from fastvlm_bench.analysis.summary import Row
from fastvlm_bench.analysis.verdict import greedy
from fastvlm_bench.method_spec import CONTROL
from fastvlm_bench.records.record import Run
from fastvlm_bench.report.numbers import ratio


def best(run: Run, rows: Sequence[Row]) -> str:
    """The sentence of the fastest lossless method; "" if none was measured beside the reference.

    Where some draft, it is the fastest of those, and the sentence says so. A method whose tokens the target would not
    have chosen, or that could not be judged, does not count, whatever it claims: the sentence says how many these are.
    """
    lossless = [row for row in rows if row.method != row.reference and row.settings.lossless
                and run.method(row.method)["name"] != CONTROL]  # fmt: skip
    drafting = [row for row in lossless if row.acceptance.alpha is not None]
    asked = drafting or lossless
    lost = [row for row in asked if row.sameness.violations or row.sameness.unsteady]
    unknown = [row for row in asked if row.sameness.unjudged and row not in lost]
    kept = [row for row in asked if row not in lost and row not in unknown]
    if not kept:
        known = "is known to have kept" if unknown else "kept"
        return f"No method that is called lossless {known} the target's tokens." if asked else ""
    by = common(row.speedup for row in kept)
    first = max(kept, key=lambda row: _speedup(row, by))
    return _rank(len(kept), len(lost), len(unknown), bool(drafting), by) + conclusion(run, first)


def _rank(kept: int, lost: int, unknown: int, drafting: bool, by: str) -> str:
    """Among how many lossless methods it is the fastest, and how many more there are; "" where it is the only one."""
    one = f"lossless method{' that drafts' if drafting else ''}"
    many = f"lossless methods{' that draft' if drafting else ''}"
    more = [f"{lost} more did not keep the target's tokens"] if lost else []
    more += [f"{unknown} more could not be judged"] if unknown else []
    if kept == 1 and not more:
        return ""
    told = f" ({', '.join(more)})" if more else ""
    if kept == 1:
        return f"The one {one} with the target's tokens{told}: "
    return f"Fastest{' end to end' if by == E2E else ''} of {kept} {many}{told}: "


def _speedup(row: Row, by: str) -> float:
    estimate: Estimate | None = getattr(row.speedup, f"{by}_speedup_geomean")
    return 0.0 if estimate is None else estimate.value


def others(sameness: Sameness) -> str:
    """How the outputs that are not identical were judged: ", 2 near-ties, 1 violation", or ""."""
    words = ((sameness.near_ties, "near-tie", "near-ties"), (sameness.unsteady, "unsteady", "unsteady"),
             (sameness.violations, "violation", "violations"),
             (sameness.unchecked, "unchecked", "unchecked"))  # fmt: skip
    return "".join(f", {count} {one if count == 1 else many}" for count, one, many in words if count)


def describe(method: Mapping[str, Any]) -> str:
    """A method's name with the options that decide its speed: "fastvlm(γ=6, exit 2, attention head)"."""
    options = method.get("options") or {}
    parts = [f"γ={options['gamma']}"] if options.get("gamma") is not None else []
    parts += [f"topk {options['topk']}"] if options.get("topk", 1) > 1 else []
    parts += [f"exit {options['exit_layer']}"] if options.get("exit_layer") else []
    parts += [f"{options['head']} head"] if options.get("head") else []
    return f"{method['name']}({', '.join(parts)})" if parts else str(method["name"])


def conclusion(run: Run, row: Row) -> str:
    """One sentence about a lossless method against the reference; "" for the reference and for lossy methods."""
    if row.method == row.reference or not row.settings.lossless:
        return ""
    name, speedup = describe(run.method(row.method)), row.speedup
    estimate, found, doing = speedup.decode_speedup_geomean, speedup.decode_speedup_verdict, "decodes"
    if estimate is None:
        estimate, found, doing = speedup.e2e_speedup_geomean, speedup.e2e_speedup_verdict, "answers"
    if estimate is None or found is None:
        return f"{name}: nothing was measured together with {row.reference}."
    value, _, interval = ratio(estimate).partition(" ")
    interval = f" {interval}" if interval else ""
    phrase = {
        "FASTER": f"{doing} {value} faster than {row.reference}{interval}",
        "SLOWER": f"{doing} {value} as fast as {row.reference}{interval}: it is slower",
        "SAME": f"{doing} as fast as {row.reference}, {value}{interval}",
        "AMBIGUOUS": f"{doing} {value} as fast as {row.reference}{interval}: {_doubt(estimate)}",
    }[found]
    if speedup.speedup_between is not None:
        phrase += f", between {len(speedup.speedup_by_invocation)} processes {ratio(speedup.speedup_between)}"
    if doing == "decodes" and speedup.e2e_speedup_geomean is not None:
        phrase += f", end to end {ratio(speedup.e2e_speedup_geomean)}"
    same = ", per token, drawn by a rule that keeps the target's distribution"
    if greedy(run.meta):
        same = f", identical on {row.sameness.identical} of {row.counts.samples_paired}{others(row.sameness)}"
    return f"{name} {phrase}{same}."


def _doubt(estimate: Estimate) -> str:
    """Why nothing can be said of a speed-up that is AMBIGUOUS."""
    low, high = estimate.low, estimate.high
    if low is not None and high is not None and not low <= 1 <= high and estimate.independent >= FEWEST_SAMPLES:
        return "not shown, as among several methods and suites one differs so much by chance"
    return "too few samples or too much noise to tell"
