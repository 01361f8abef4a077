"""From stored counts and seconds to rows, one per suite x method: the numbers of every report and export."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastvlm_bench.analysis.arms import Arm, Measured, arms, pairs
from fastvlm_bench.analysis.batches import batch_size, by_batch, latencies
from fastvlm_bench.analysis.drift import outliers
from fastvlm_bench.analysis.quality import Quality, compare_quality, margin_of
from fastvlm_bench.analysis.speed import by_invocation, divide, energy_of, speculation, speedups
from fastvlm_bench.analysis.statistics import (
    Estimate,
    geometric_mean_ratio,
    holm,
    middle,
    p_of_one,
    percentile,
    ratio_of_totals,
    relative_spread,
    rule_of_three,
)
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.identities import check_line
from fastvlm_bench.records.record import Run

__all__ = ["Quality", "Row", "Spread", "check_line", "divide", "speedups", "summarise"]


@dataclass(frozen=True)
class Spread:
    """Median and percentiles over samples; p5 and p95 are None below 100 samples."""

    median: float | None
    p5: float | None
    p95: float | None


@dataclass(frozen=True)
class Row:
    """One suite x method. Seconds, bytes, counts and ratios; None where it was not measured or is undefined.

    docs/measuring.md gives the formula of each field. `report.export.columns` makes the CSV columns from these fields,
    in this order.
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
    ignore_eos: bool
    temperature: float
    top_p: float | None
    top_k: int | None
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
    decode_speedup_geomean: Estimate | None
    e2e_speedup_geomean: Estimate | None
    decode_speedup_totals: Estimate | None
    e2e_speedup_totals: Estimate | None
    decode_speedup_holm_p: float | None
    e2e_speedup_holm_p: float | None
    invocations: int
    speedup_by_invocation: tuple[float, ...]
    speedup_between: Estimate | None
    outliers: int | None
    e2e_speedup_without_outliers: Estimate | None
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
    phase_vision: float | None
    phase_prefill: float | None
    phase_draft: float | None
    phase_verify: float | None
    phase_other: float | None
    phases_by: str
    peak_rss_bytes: int | None
    peak_rss_delta_bytes: int | None
    peak_allocated_bytes: int | None
    peak_allocated_delta_bytes: int | None
    peak_reserved_bytes: int | None
    peak_reserved_delta_bytes: int | None
    extra_bytes: int
    joules_per_token: float | None
    watts: float | None


def spread(values: Sequence[float]) -> Spread:
    """Median, p5 and p95 of one value per sample."""
    return Spread(middle(values), percentile(values, 5), percentile(values, 95))


def summarise(run: Run, margin: float | None = None) -> list[Row]:
    """The rows of a run: suites, then methods, in the order of `run.json`. An arm without samples has a row too.

    margin: the largest quality difference that counts as none, in points of 100; None takes the run's own.
    UsageError if the run ended before its model was loaded, so that nothing was measured.
    """
    if "dtype" not in run.meta["model"]:
        error = run.meta.get("error")
        raise UsageError(f"{run.folder} has no measurement: the run ended before its model was loaded"
                         + (f" ({error})" if error else "") + "; run it again")  # fmt: skip
    own = arms(run)
    references = {arm.suite["name"]: arm for arm in own if arm.method["label"] == run.meta["reference"]}
    margin = margin_of(run.meta["config"], margin)
    return _holm([_row(run, arm, references.get(arm.suite["name"]), margin) for arm in own])


def _holm(rows: list[Row]) -> list[Row]:
    """The rows with each method's p values, adjusted over the suites of the run. One suite alone gets no p value."""
    for label in {row.method for row in rows}:
        for name in ("decode", "e2e"):
            places = [i for i, row in enumerate(rows) if row.method == label]
            known = [(i, p) for i in places if (p := p_of_one(getattr(rows[i], f"{name}_speedup_geomean"))) is not None]
            if len(known) > 1:
                for (i, _), p in zip(known, holm([p for _, p in known]), strict=True):
                    rows[i] = replace(rows[i], **{f"{name}_speedup_holm_p": p})  # type: ignore[arg-type]
    return rows


def _row(run: Run, arm: Arm, reference: Arm | None, margin: float) -> Row:
    model, method, suite = run.meta["model"], arm.method, arm.suite
    is_reference = method["label"] == run.meta["reference"]
    paired = pairs(arm, reference) if reference is not None and not is_reference else None
    values, alone = list(arm.measured.values()), latencies(arm)
    threads = run.meta.get("environment", {}).get("threads")
    config = run.meta["config"]
    sampled = bool(config.get("temperature"))
    joules, watts = energy_of(run.meta, suite["name"], method["label"])
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
        ignore_eos=bool(config.get("ignore_eos")),
        temperature=float(config.get("temperature") or 0),
        top_p=config.get("top_p"),
        top_k=config.get("top_k"),
        samples=len(suite["samples"]),
        samples_ok=len(values),
        samples_failed=len(arm.failed),
        repeats=arm.repeats,
        batch_size=batch_size(run),
        quality=tuple(compare_quality(metric, arm, paired, margin) for metric in suite["metrics"]),
        invocations=len({line.get("invocation") or 0 for line in arm.lines()}),
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
        joules_per_token=joules,
        watts=watts,
        **_paired(paired, sampled),
        **speculation(arm, reference, paired, sampled),
        **_memory(arm, None if is_reference else reference),
    )


def _paired(paired: Sequence[tuple[Measured, Measured]] | None, sampled: bool) -> dict[str, Any]:
    """The fields of a `Row` that compare an arm with the reference; empty for the reference itself.

    sampled: tokens were drawn. Two runs of the target itself would then differ, so nothing is said about identical
    outputs.
    """
    if paired is None:
        return {
            "samples_paired": 0, "samples_one_token": 0, "identical": None, "different_rate_upper": None,
            "diverged": (), "near_ties": None, "violations": None,
            "decode_speedup_geomean": None, "e2e_speedup_geomean": None, "decode_speedup_totals": None,
            "e2e_speedup_totals": None, "ratio_spread": None, "decode_speedup_holm_p": None,
            "e2e_speedup_holm_p": None, "speedup_by_invocation": (), "speedup_between": None, "outliers": None,
            "e2e_speedup_without_outliers": None,
        }  # fmt: skip
    decode, e2e = speedups(paired, geometric_mean_ratio, sampled)
    decode_totals, e2e_totals = speedups(paired, ratio_of_totals, sampled)
    differing = [] if sampled else [
        (ours, ours.divergence(theirs)) for ours, theirs in paired if not ours.same_tokens(theirs)
    ]  # fmt: skip
    units = by_batch(paired)
    ratios = [theirs.e2e_s / ours.e2e_s * (ours.tokens / theirs.tokens if sampled else 1)
              for ours, theirs in units if ours.e2e_s > 0]  # fmt: skip
    logs = [math.log(ratio) if ratio > 0 else 0.0 for ratio in ratios]
    each = by_invocation(paired, sampled)
    odd = set(outliers(logs)) if len(logs) == len(units) else set()
    kept = [pair for place, pair in enumerate(units) if place not in odd]
    return {
        "samples_paired": len(paired),
        "samples_one_token": sum(not (ours.decodes and theirs.decodes) for ours, theirs in paired),
        "identical": None if sampled else len(paired) - len(differing),
        "different_rate_upper": None if differing or sampled else rule_of_three(len(paired)),
        "diverged": tuple(f"{ours.sample_id}@{index}" for ours, index in differing),
        "near_ties": _outcomes(paired, "near-tie"),
        "violations": _outcomes(paired, "violation"),
        "decode_speedup_geomean": decode,
        "e2e_speedup_geomean": e2e,
        "decode_speedup_totals": decode_totals,
        "e2e_speedup_totals": e2e_totals,
        "decode_speedup_holm_p": None,
        "e2e_speedup_holm_p": None,
        "speedup_by_invocation": tuple(each) if len(each) > 1 else (),
        "speedup_between": geometric_mean_ratio(each, [1.0] * len(each)) if len(each) > 1 else None,
        "outliers": len(odd),
        "e2e_speedup_without_outliers": speedups(kept, geometric_mean_ratio, sampled)[1] if odd else None,
        "ratio_spread": relative_spread(ratios),
    }


def _outcomes(paired: Sequence[tuple[Measured, Measured]], outcome: str) -> int | None:
    """Number of samples with this outcome in any repeat; None if none was judged (lossy methods, records of 0.1)."""
    judged = [[found["outcome"] for line in ours.lines if (found := line.get("losslessness"))] for ours, _ in paired]
    return sum(outcome in outcomes for outcomes in judged) if any(judged) else None


def _memory(arm: Arm, reference: Arm | None) -> dict[str, Any]:
    """The largest peak over all samples in bytes, and its difference to the reference's."""

    def peak(of: Arm | None, name: str) -> int | None:
        found = [] if of is None else [(line.get("memory") or {}).get(name) for line in of.lines()]
        return max((value for value in found if value is not None), default=None)

    result: dict[str, Any] = {}
    for kind in ("rss", "allocated", "reserved"):
        ours, theirs = peak(arm, f"peak_{kind}_bytes"), peak(reference, f"peak_{kind}_bytes")
        result[f"peak_{kind}_bytes"] = ours
        result[f"peak_{kind}_delta_bytes"] = ours - theirs if ours is not None and theirs is not None else None
    return result
