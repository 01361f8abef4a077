"""What `run.json` has of measurements apart from the samples: memory, pass costs, rounds without a stop, energy."""

from typing import Annotated, Literal, NotRequired, TypedDict

from fastvlm_bench.records.sample_line import Amount, Bytes, Count, Phases


class MemoryParts(TypedDict):
    """What the peak of a method is made of, on the suite's last sample."""

    suite: Annotated[str, "name of the suite"]
    method: Annotated[str, "label of the method"]
    sample_id: Annotated[str, "the sample that was decoded"]
    kind: Annotated[Literal["rss", "allocated"], "resident memory, or tensors on the device"]
    how: Annotated[Literal["kernel", "sampled", "allocator"] | None, "how the peak was found"]
    peak_bytes: Annotated[Bytes | None, "bytes at the peak"]
    weights_bytes: Annotated[Bytes, "bytes of the target's weights"]
    head_bytes: Annotated[Bytes, "bytes of the draft's head"]
    cache_bytes: Annotated[Bytes | None, "bytes of the target's KV cache at the end"]
    activation_bytes: Annotated[Bytes | None, "bytes that the generation took on top, less the cache"]
    rest_bytes: Annotated[Bytes | None, "bytes that were there before and are neither weights nor head"]
    reserved_bytes: Annotated[Bytes | None, "bytes that the allocator had taken from the device"]
    device_used_bytes: Annotated[Bytes | None, "bytes in use on the device, by any process"]


class PassCostsRecord(TypedDict):
    """Seconds of single passes, timed apart from the samples on the suite's last one: medians."""

    suite: Annotated[str, "name of the suite"]
    method: Annotated[str, "label of a method that drafts"]
    standard_s: Annotated[Amount, "seconds of one token by the whole target"]
    draft_s: Annotated[Amount, "seconds of one token by the draft"]
    verify_s: Annotated[list[Amount], "seconds of a verification of 1, 2, 3 .. positions; some are interpolated"]


class KernelSeconds(TypedDict):
    """Seconds of the device's kernels in each phase of one generation."""

    vision_s: Annotated[Amount, "seconds of kernels of the image encoder; 0 where none was seen at work"]
    prefill_s: Annotated[Amount, "seconds of kernels in the pass over the prompt"]
    draft_s: Annotated[Amount, "seconds of kernels in drafting passes"]
    verify_s: Annotated[Amount, "seconds of kernels in passes of the target that do not draft"]
    other_s: Annotated[Amount, "seconds of kernels outside the passes"]


class KernelsRecord(TypedDict):
    """With --phases: how long the device computes in each phase, on the first tokens of the suite's last sample."""

    suite: Annotated[str, "name of the suite"]
    method: Annotated[str, "label of the method"]
    sample_id: Annotated[str, "the sample that was decoded"]
    tokens: Annotated[Count, "so many tokens of its answer"]
    wall: Annotated[Phases, "seconds of the phases, without the profiler"]
    busy: Annotated[KernelSeconds, "of them those in kernels, by the profiler"]


class WithoutStop(TypedDict):
    """The rounds of a method that stops in doubt, decoded apart from the samples, without a stop."""

    suite: Annotated[str, "name of the suite"]
    method: Annotated[str, "label of the method"]
    samples: Annotated[Count, "the suite's first so many samples"]
    rounds: Annotated[Count, "rounds"]
    drafted: Annotated[Count, "drafted tokens"]
    tested: Annotated[Count, "of them tested"]
    accepted: Annotated[Count, "of them accepted"]
    emitted: Annotated[Count, "tokens that the rounds emitted"]


class Outside(TypedDict):
    """What lies outside the clock, of one invocation."""

    model_load_s: Annotated[Amount, "seconds of loading the model"]
    first_call_s: Annotated[dict[str, Amount], "method: seconds of its first generation"]


class EnergyBlock(TypedDict):
    """A block of generations of one method."""

    method: Annotated[str, "label of the method"]
    seconds: Annotated[Amount, "seconds of the block"]
    joules: Annotated[Amount | None, "joules of the whole device or package in the block"]
    tokens: Annotated[Count, "tokens decoded"]
    samples: Annotated[Count, "samples decoded"]


class Energy(TypedDict):
    """The blocks of a suite with --energy, or the reason why there are none."""

    source: Annotated[Literal["nvml-counter", "nvml-power", "rapl"] | None, "what counted the joules"]
    idle_w: NotRequired[Annotated[float | None, "watts at rest"]]
    blocks: NotRequired[Annotated[list[EnergyBlock], "in the order in which they were measured"]]
    reason: NotRequired[Annotated[str, "why it was not measured"]]
