"""Speed-ups of pairs, and where the seconds of an arm went: rounds, what they cost, phases."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastvlm_bench.analysis.arms import Arm, Measured, by_position, count
from fastvlm_bench.analysis.batches import by_batch
from fastvlm_bench.analysis.statistics import Estimate, geometric_mean_ratio, ratio_of_totals

PHASES = ("vision", "prefill", "draft", "verify", "other")
CLOCK, EVENTS = "clock", "events"
"""How the phases were told apart: by the loop's own clock, or by the hooks of `--phases` (events on a GPU)."""


def divide(numerator: float, denominator: float | None) -> float | None:
    """The quotient, or None where the denominator is zero or unknown: "not measured" is never 0 or infinity."""
    return numerator / denominator if denominator else None


def speedups(
    paired: Sequence[tuple[Measured, Measured]], estimator: Callable[..., Estimate | None], per_token: bool = False
) -> tuple[Estimate | None, Estimate | None]:
    """(decode, end-to-end) speed-up: reference seconds / our seconds, combined by `estimator`; None without a pair.

    One-token answers have no decoding and do not count in the decode speed-up. per_token: compare seconds per token,
    because sampled answers of the two arms differ in length. The samples of one batch are one observation.
    """
    paired = by_batch(paired)
    decoding = [(ours, theirs) for ours, theirs in paired if ours.decodes and theirs.decodes]

    def decode(of: Measured) -> float:
        return of.decode_s / (of.tokens - 1) if per_token else of.decode_s

    def e2e(of: Measured) -> float:
        return of.e2e_s / of.tokens if per_token else of.e2e_s

    return (
        estimator([decode(theirs) for _, theirs in decoding], [decode(ours) for ours, _ in decoding]),
        estimator([e2e(theirs) for _, theirs in paired], [e2e(ours) for ours, _ in paired]),
    )


def by_invocation(paired: Sequence[tuple[Measured, Measured]], per_token: bool) -> list[float]:
    """The speed-up of each invocation over its own samples: of decoding, or end to end where nothing is decoded."""
    numbers = sorted({line.get("invocation") or 0 for ours, _ in paired for line in ours.lines})
    found = []
    for number in numbers:
        own = [(a, b) for ours, theirs in paired
               if (a := ours.within(number)) is not None and (b := theirs.within(number)) is not None]  # fmt: skip
        decode, e2e = speedups(own, geometric_mean_ratio, per_token)
        if (estimate := decode or e2e) is not None:
            found.append(estimate.value)
    return found


def speculation(
    arm: Arm, reference: Arm | None, paired: Sequence[tuple[Measured, Measured]] | None, sampled: bool
) -> dict[str, Any]:
    """The fields of a `summary.Row` about rounds, shares of the time, and the speed-up that the costs predict.

    paired: (ours, reference), None for the reference itself. sampled: tokens were drawn, so speed-ups are per token.
    """
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
    if paired:
        ceiling = amdahl_ceiling([theirs for _, theirs in by_batch(paired)])
    if paired and standard and tau is not None:
        # A round gives τ tokens for d̄ drafts and one verification; standard decoding needs τ forward passes for them.
        predicted = divide(tau * standard, (per_round or 0.0) * (draft or 0.0) + (verify or 0.0))
        estimate = speedups(paired, ratio_of_totals, sampled)[0]
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
        **phases(list(arm.lines())),
    }


def amdahl_ceiling(reference: Sequence[Measured]) -> float | None:
    """The end-to-end speed-up if decoding took no time: geometric mean of the reference's e2e / TTFT.

    By Amdahl's law it is 1 / (1 - d) for a sample that spends the share d of its time in decoding. It is a geometric
    mean because the headline speed-up is one. None without a sample.
    """
    estimate = geometric_mean_ratio([m.e2e_s for m in reference], [m.ttft_s for m in reference])
    return estimate.value if estimate is not None else None


def energy_of(meta: Mapping[str, Any], suite: str, method: str) -> tuple[float | None, float | None]:
    """(joules per token, mean watts) of a method's blocks; (None, None) unless every block has a reading."""
    entry = (meta.get("energy") or {}).get(suite) or {}
    own = [block for block in entry.get("blocks") or [] if block["method"] == method]
    if not own or any(block["joules"] is None for block in own):
        return None, None
    joules = sum(block["joules"] for block in own)
    return divide(joules, sum(b["tokens"] for b in own)), divide(joules, sum(b["seconds"] for b in own))


def phases(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The share of each phase in the end-to-end seconds of these lines, and how the phases were told apart.

    The phases are those of `--phases` if every line has them, else those of the loop's own clock. By that clock, draft
    and verify include the choice of tokens, and prefill includes what `generate` does around the loop. Image encoding
    is None where it cannot be told apart; it is then part of prefill.
    """
    by_events = bool(lines) and all(line.get("phases") for line in lines)
    sums: dict[str, float | None] = {}
    if by_events:
        sums = {name: sum(line["phases"][f"{name}_s"] or 0.0 for line in lines) for name in PHASES}
        if any(line["phases"]["vision_s"] is None for line in lines):
            sums["vision"] = None
    elif lines:
        own = count(lines)
        seen = all(line["vision_s"] is not None for line in lines)
        sums = {
            "vision": sum(line["vision_s"] for line in lines) if seen else None,
            "prefill": sum(line["prefill_s"] if seen else line["ttft_s"] for line in lines),
            "draft": own.draft_s, "verify": own.verify_s,
            "other": sum(line["decode_s"] for line in lines) - own.draft_s - own.verify_s,
        }  # fmt: skip
    total = sum(value or 0.0 for value in sums.values())
    shares = {f"phase_{name}": None if (value := sums.get(name)) is None else divide(value, total) for name in PHASES}
    return {**shares, "phases_by": (EVENTS if by_events else CLOCK) if lines else ""}
