"""The group `phases` of a row: the shares of the phases in an arm's time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.analysis.arms import Arm, told_apart
from fastvlm_bench.analysis.round_sums import RoundSums, sum_rounds
from fastvlm_bench.analysis.statistics import divide

PHASES = ("vision", "prefill", "draft", "verify", "other")
CLOCK, EVENTS = "clock", "events"
"""How the phases were told apart: by the loop's own clock, or by the hooks of `--phases` (events on a GPU)."""


@dataclass(frozen=True)
class Phases:
    """Shares of one.

    draft_share, verify_share, other_share: of the decoding time, by the loop's own clock. vision_share, decode_share:
    of the end-to-end time, likewise. phase_*: of the end-to-end time; together they are 1. phases_by: how these were
    told apart, `CLOCK` or `EVENTS`, "" where nothing was measured. kernels_*: of the seconds of a phase, or of the
    whole request, those in the device's kernels, on one sample; what is left to 1 is launches, Python and waiting.
    """

    draft_share: float | None
    verify_share: float | None
    other_share: float | None
    vision_share: float | None
    decode_share: float | None
    phase_vision: float | None
    phase_prefill: float | None
    phase_draft: float | None
    phase_verify: float | None
    phase_other: float | None
    phases_by: str
    kernels_prefill: float | None = None
    kernels_draft: float | None = None
    kernels_verify: float | None = None
    kernels_e2e: float | None = None


def phases_of(meta: Mapping[str, Any], arm: Arm) -> Phases:
    """The phases of an arm, over all repeats of its measured samples. meta: run.json."""
    lines, own = list(arm.lines()), arm.rounds
    decode_s = sum(line["decode_s"] for line in lines)
    e2e_s = sum(line["ttft_s"] + line["decode_s"] for line in lines)
    visions = [line["vision_s"] for line in lines]
    shares, told_by = phase_shares(lines, own)
    return Phases(
        draft_share=divide(own.draft_s, decode_s),
        verify_share=divide(own.verify_s, decode_s),
        other_share=divide(decode_s - own.draft_s - own.verify_s, decode_s),
        vision_share=divide(sum(visions), e2e_s) if visions and None not in visions else None,
        decode_share=divide(decode_s, e2e_s),
        phase_vision=shares["vision"],
        phase_prefill=shares["prefill"],
        phase_draft=shares["draft"],
        phase_verify=shares["verify"],
        phase_other=shares["other"],
        phases_by=told_by,
        **kernel_shares(meta, arm),
    )


def kernel_shares(meta: Mapping[str, Any], arm: Arm) -> dict[str, float | None]:
    """Σ seconds in kernels / Σ seconds of each phase, and of all; None where nothing was measured."""
    told = told_apart(meta, "kernels", arm)
    if told is None:
        return {}
    wall, busy = ({name: told[key][f"{name}_s"] or 0.0 for name in PHASES} for key in ("wall", "busy"))
    shares = {f"kernels_{name}": divide(busy[name], wall[name]) if wall[name] else None
              for name in ("prefill", "draft", "verify")}  # fmt: skip
    return {**shares, "kernels_e2e": divide(sum(busy.values()), sum(wall.values()))}


def phase_shares(
    lines: Sequence[Mapping[str, Any]], own: RoundSums | None = None
) -> tuple[dict[str, float | None], str]:
    """({phase: its share of the end-to-end seconds of these lines}, how the phases were told apart).

    own: the sums of their rounds, if they are there already.

    The phases are those of `--phases` if every line has them, else those of the loop's own clock. By that clock, draft
    and verify include the choice of tokens, and prefill includes what `generate` does around the loop. Image encoding
    is None where it cannot be told apart; it is then part of prefill.
    """
    if not lines:
        return dict.fromkeys(PHASES), ""
    sums: dict[str, float | None]
    by_events = all(line.get("phases") for line in lines)
    if by_events:
        sums = {name: sum(line["phases"][f"{name}_s"] or 0.0 for line in lines) for name in PHASES}
        if any(line["phases"]["vision_s"] is None for line in lines):
            sums["vision"] = None
    else:
        own = sum_rounds(lines) if own is None else own
        seen = all(line["vision_s"] is not None for line in lines)
        sums = {
            "vision": sum(line["vision_s"] for line in lines) if seen else None,
            "prefill": sum(line["prefill_s"] if seen else line["ttft_s"] for line in lines),
            "draft": own.draft_s, "verify": own.verify_s,
            "other": sum(line["decode_s"] for line in lines) - own.draft_s - own.verify_s,
        }  # fmt: skip
    total = sum(value or 0.0 for value in sums.values())
    shares = {name: None if value is None else divide(value, total) for name, value in sums.items()}
    return shares, EVENTS if by_events else CLOCK
