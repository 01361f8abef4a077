"""The group `memory` of a row: the largest peaks of an arm, and the weights that its method adds."""

from dataclasses import dataclass

from fastvlm_bench.analysis.arms import Arm


@dataclass(frozen=True)
class Memory:
    """Bytes. A peak is the largest over all samples, a delta is the peak less the reference's.

    rss: resident memory of the process. allocated: tensors on the GPU. reserved: what PyTorch's allocator holds there.
    extra_bytes: the weights that the method adds to the model.
    """

    peak_rss_bytes: int | None
    peak_rss_delta_bytes: int | None
    peak_allocated_bytes: int | None
    peak_allocated_delta_bytes: int | None
    peak_reserved_bytes: int | None
    peak_reserved_delta_bytes: int | None
    extra_bytes: int


def memory_of(arm: Arm, reference: Arm | None) -> Memory:
    """The memory of an arm. reference: its suite's; None for the reference itself, which has no deltas."""
    rss, allocated, reserved = (peak_and_delta(arm, reference, kind) for kind in ("rss", "allocated", "reserved"))
    return Memory(*rss, *allocated, *reserved, extra_bytes=int(arm.method.get("extra_bytes") or 0))


def peak_and_delta(arm: Arm, reference: Arm | None, kind: str) -> tuple[int | None, int | None]:
    """(the largest peak of this kind, its difference to the reference's); None where it was not measured."""
    ours, theirs = (None if of is None else peak(of, kind) for of in (arm, reference))
    return ours, ours - theirs if ours is not None and theirs is not None else None


def peak(arm: Arm, kind: str) -> int | None:
    """The largest peak over all measured samples and repeats, in bytes. kind: "rss", "allocated" or "reserved"."""
    return arm.peaks.get(f"peak_{kind}_bytes")
