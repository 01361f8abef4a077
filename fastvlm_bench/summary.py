"""From stored counts and seconds to rows: one suite x method each. Every rate of the project is derived here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.arms import Arm, Measured, arms, by_position, count, pairs
from fastvlm_bench.batches import batch_size, by_batch, latencies
from fastvlm_bench.errors import UsageError
from fastvlm_bench.identities import check_line
from fastvlm_bench.quality import Quality, compare_quality
from fastvlm_bench.record import Run
from fastvlm_bench.statistics import (
    Estimate,
    geometric_mean_ratio,
    middle,
    percentile,
    ratio_of_totals,
    relative_spread,
    rule_of_three,
)

__all__ = ["Quality", "Row", "Spread", "check_line", "summarise"]


@dataclass(frozen=True)
class Spread:
    """Median over samples; p5 and p95 are None below 100 samples."""

    median: float | None
    p5: float | None
    p95: float | None


@dataclass(frozen=True)
class Row:
    """One suite x method. Seconds, bytes, counts and ratios; None where it was not measured or is undefined.

    docs/results-schema.md gives the formula of each field; `export.COLUMNS` is made from these fields, in order.
    """

    run_id: str
    model: str
    suite: str
    suite_version: str
    split: str
    source: str
    method: str
    method_name: str
    reference: str
    lossless: bool
    dtype: str
    device: str
    attention: str
    threads: int | None
    max_new_tokens: int
    samples: int
    samples_ok: int
    samples_failed: int
    samples_paired: int
    samples_one_token: int
    repeats: int
    batch_size: int
    quality: tuple[Quality, ...]
    identical: int | None
    different_rate_upper: float | None
    diverged: tuple[str, ...]
    near_ties: int | None
    violations: int | None
    ttft_s: Spread
    tpot_s: Spread
    decode_s: Spread
    e2e_s: Spread
    new_tokens_median: float | None
    decode_tokens_per_s: float | None
    e2e_tokens_per_s: float | None
    requests_per_s: float | None
    decode_speedup: Estimate | None
    e2e_speedup: Estimate | None
    decode_speedup_geomean: Estimate | None
    e2e_speedup_geomean: Estimate | None
    ratio_spread: float | None
    tpot_spread: float | None
    alpha: float | None
    draft_acceptance_rate: float | None
    tau: float | None
    acceptance_by_position: tuple[float, ...]
    rounds: int
    drafted_per_round: float | None
    draft_s_per_token: float | None
    verify_s_per_round: float | None
    standard_s_per_token: float | None
    predicted_decode_speedup: float | None
    efficiency: float | None
    draft_share: float | None
    verify_share: float | None
    other_share: float | None
    vision_share: float | None
    decode_share: float | None
    e2e_speedup_ceiling: float | None
    peak_rss_bytes: int | None
    peak_rss_delta_bytes: int | None
    peak_allocated_bytes: int | None
    peak_allocated_delta_bytes: int | None
    peak_reserved_bytes: int | None
    peak_reserved_delta_bytes: int | None
    extra_bytes: int


def divide(numerator: float, denominator: float | None) -> float | None:
    """The quotient, or None where the denominator is zero or unknown: "not measured" is never 0 or infinity."""
    return numerator / denominator if denominator else None


def spread(values: Sequence[float]) -> Spread:
    """Median, p5 and p95 of one value a sample."""
    return Spread(middle(values), percentile(values, 5), percentile(values, 95))


def summarise(run: Run) -> list[Row]:
    """The rows of a run: suites, then methods, in the order of `run.json`. An arm without samples has a row too.

    UsageError: the run ended before there was anything to measure.
    """
    if "dtype" not in run.meta["model"]:
        error = run.meta.get("error")
        raise UsageError(f"{run.folder} has no measurement: the run ended before its model was loaded"
                         + (f" ({error})" if error else "") + "; run it again")  # fmt: skip
    own = arms(run)
    references = {arm.suite["name"]: arm for arm in own if arm.method["label"] == run.meta["reference"]}
    return [_row(run, arm, references.get(arm.suite["name"])) for arm in own]


def speedups(
    paired: Sequence[tuple[Measured, Measured]], estimator: Callable[..., Estimate | None]
) -> tuple[Estimate | None, Estimate | None]:
    """(decode, end-to-end): reference seconds over ours, by `estimator`. Decode leaves out one-token answers.

    What was decoded in one batch is one observation.
    """
    paired = by_batch(paired)
    decoding = [(ours, theirs) for ours, theirs in paired if ours.decodes and theirs.decodes]
    return (
        estimator([theirs.decode_s for _, theirs in decoding], [ours.decode_s for ours, _ in decoding]),
        estimator([theirs.e2e_s for _, theirs in paired], [ours.e2e_s for ours, _ in paired]),
    )


def _row(run: Run, arm: Arm, reference: Arm | None) -> Row:
    model, method, suite = run.meta["model"], arm.method, arm.suite
    is_reference = method["label"] == run.meta["reference"]
    paired = pairs(arm, reference) if reference is not None and not is_reference else None
    values, alone = list(arm.measured.values()), latencies(arm)
    threads = run.meta.get("environment", {}).get("threads")
    return Row(
        run_id=run.run_id,
        model=model["id"],
        suite=suite["name"],
        suite_version=str(suite["version"]),
        split=suite["split"],
        source=suite["source"],
        method=method["label"],
        method_name=method["name"],
        reference=run.meta["reference"],
        lossless=bool(method["lossless"]),
        dtype=model["dtype"],
        device=model["device"],
        attention=model["attention"],
        threads=threads if isinstance(threads, int) else None,
        max_new_tokens=suite["max_new_tokens"],
        samples=len(suite["samples"]),
        samples_ok=len(values),
        samples_failed=len(arm.failed),
        repeats=arm.repeats,
        batch_size=batch_size(run),
        quality=tuple(compare_quality(metric, arm, paired) for metric in suite["metrics"]),
        ttft_s=spread([v.ttft_s for v in alone]),
        tpot_s=spread([v.tpot_s for v in alone if v.tpot_s is not None]),
        decode_s=spread([v.decode_s for v in alone if v.decodes]),
        e2e_s=spread([v.e2e_s for v in alone]),
        tpot_spread=relative_spread([v.tpot_s for v in alone if v.tpot_s is not None]),
        new_tokens_median=middle([v.tokens for v in values]),
        decode_tokens_per_s=divide(
            sum(v.tokens - 1 for v in values if v.decodes), sum(v.decode_s for v in values if v.decodes)
        ),
        e2e_tokens_per_s=divide(sum(v.tokens for v in values), sum(v.e2e_s for v in values)),
        requests_per_s=divide(len(values), sum(v.e2e_s for v in values)),
        extra_bytes=int(method.get("extra_bytes") or 0),
        **_paired(paired),
        **_speculation(arm, reference, paired),
        **_memory(arm, None if is_reference else reference),
    )


def _paired(paired: Sequence[tuple[Measured, Measured]] | None) -> dict[str, Any]:
    """What the comparison with the reference gives; all None for the reference itself."""
    if paired is None:
        return {
            "samples_paired": 0, "samples_one_token": 0, "identical": None, "different_rate_upper": None,
            "diverged": (), "near_ties": None, "violations": None,
            "decode_speedup": None, "e2e_speedup": None, "decode_speedup_geomean": None,
            "e2e_speedup_geomean": None, "ratio_spread": None,
        }  # fmt: skip
    decode, e2e = speedups(paired, ratio_of_totals)
    decode_geomean, e2e_geomean = speedups(paired, geometric_mean_ratio)
    differing = [(ours, ours.divergence(theirs)) for ours, theirs in paired if not ours.same_tokens(theirs)]
    ratios = [theirs.e2e_s / ours.e2e_s for ours, theirs in by_batch(paired) if ours.e2e_s > 0]
    return {
        "samples_paired": len(paired),
        "samples_one_token": sum(not (ours.decodes and theirs.decodes) for ours, theirs in paired),
        "identical": len(paired) - len(differing),
        "different_rate_upper": None if differing else rule_of_three(len(paired)),
        "diverged": tuple(f"{ours.sample_id}@{index}" for ours, index in differing),
        "near_ties": _outcomes(paired, "near-tie"),
        "violations": _outcomes(paired, "violation"),
        "decode_speedup": decode,
        "e2e_speedup": e2e,
        "decode_speedup_geomean": decode_geomean,
        "e2e_speedup_geomean": e2e_geomean,
        "ratio_spread": relative_spread(ratios),
    }


def _outcomes(paired: Sequence[tuple[Measured, Measured]], outcome: str) -> int | None:
    """Samples with this outcome in any repeat; None where none was judged (lossy methods, records of 0.1)."""
    judged = [[found["outcome"] for line in ours.lines if (found := line.get("losslessness"))] for ours, _ in paired]
    return sum(outcome in outcomes for outcomes in judged) if any(judged) else None


def _speculation(arm: Arm, reference: Arm | None, paired: Sequence[tuple[Measured, Measured]] | None) -> dict[str, Any]:
    """Counts of rounds, where the seconds went, and the speed-up that the costs predict."""
    own = count(arm.lines())
    decode_total = sum(line["decode_s"] for line in arm.lines())
    e2e_total = sum(line["ttft_s"] + line["decode_s"] for line in arm.lines())
    visions = [line["vision_s"] for line in arm.lines()]
    tau, per_round = divide(own.emitted, own.rounds), divide(own.drafted, own.rounds)
    draft, verify = divide(own.draft_s, own.drafted), divide(own.verify_s, own.rounds)
    standard = predicted = ceiling = measured = None
    if reference is not None:
        base = count(reference.lines())
        standard = divide(base.verify_s, base.emitted) or None
        seconds = sum(line["ttft_s"] + line["decode_s"] for line in reference.lines())
        ceiling = divide(seconds, sum(line["ttft_s"] for line in reference.lines()))
    if paired and standard and tau is not None:
        # τ tokens for d̄ drafts and one verification, against τ standard forward passes.
        predicted = divide(tau * standard, (per_round or 0.0) * (draft or 0.0) + (verify or 0.0))
        estimate = speedups(paired, ratio_of_totals)[0]
        measured = estimate.value if estimate is not None else None
    return {
        "alpha": divide(own.accepted, own.tested),
        "draft_acceptance_rate": divide(own.accepted, own.drafted) if own.tested else None,
        "tau": tau,
        "acceptance_by_position": by_position(arm.lines()),
        "rounds": own.rounds,
        "drafted_per_round": per_round,
        "draft_s_per_token": draft,
        "verify_s_per_round": verify,
        "standard_s_per_token": standard,
        "predicted_decode_speedup": predicted,
        "efficiency": divide(measured, predicted) if measured is not None else None,
        "draft_share": divide(own.draft_s, decode_total),
        "verify_share": divide(own.verify_s, decode_total),
        "other_share": divide(decode_total - own.draft_s - own.verify_s, decode_total),
        "vision_share": divide(sum(visions), e2e_total) if visions and None not in visions else None,
        "decode_share": divide(decode_total, e2e_total),
        "e2e_speedup_ceiling": ceiling,
    }


def _memory(arm: Arm, reference: Arm | None) -> dict[str, Any]:
    """The largest peak over all samples, and its difference to the reference's."""

    def peak(of: Arm | None, name: str) -> int | None:
        found = [] if of is None else [(line.get("memory") or {}).get(name) for line in of.lines()]
        return max((value for value in found if value is not None), default=None)

    result: dict[str, Any] = {}
    for kind in ("rss", "allocated", "reserved"):
        ours, theirs = peak(arm, f"peak_{kind}_bytes"), peak(reference, f"peak_{kind}_bytes")
        result[f"peak_{kind}_bytes"] = ours
        result[f"peak_{kind}_delta_bytes"] = ours - theirs if ours is not None and theirs is not None else None
    return result
