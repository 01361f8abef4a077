"""A line of `samples.jsonl`, field by field, and the types that fields have.

`schema.py` makes the JSON schemas in docs/schema of these types, texts included. A field that is NotRequired is missing
in some records of schema version 1: in older ones, or where its option was not given. None is JSON's null.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict


@dataclass(frozen=True)
class Limits:
    """What a value must be beyond its type: at least `minimum`, or a text in which the regular expression is found."""

    minimum: int | None = None
    pattern: str | None = None


Count = Annotated[int, Limits(minimum=0)]
Positive = Annotated[int, Limits(minimum=1)]
Bytes = Annotated[int, Limits(minimum=0)]
Amount = Annotated[float, Limits(minimum=0)]
"""Of seconds, joules or watts."""

Round = tuple[Count, Count, Count, Count, Amount, Amount]


class Memory(TypedDict):
    """The peak of one generation; empty where it was not measured."""

    peak_rss_bytes: NotRequired[
        Annotated[Bytes | None, "bytes of resident memory of the process, children not counted"]
    ]
    peak_allocated_bytes: NotRequired[Annotated[Bytes | None, "bytes that tensors held on the CUDA device"]]
    peak_reserved_bytes: NotRequired[Annotated[Bytes | None, "bytes that the allocator had taken from the CUDA device"]]
    device_used_bytes: NotRequired[Annotated[Bytes | None, "bytes in use on the CUDA device, by any process"]]
    rss_method: NotRequired[Annotated[Literal["kernel", "sampled"] | None, "how peak_rss_bytes was found"]]


class Batch(TypedDict):
    """The batch that a sample was decoded in; the seconds are those of the whole batch."""

    id: Annotated[Count, "number of the batch within the suite, from 0"]
    size: Annotated[Positive, "samples in the batch"]
    row: Annotated[Count, "place of this sample in the batch, from 0"]
    ttft_s: Annotated[Amount | None, "seconds until every row has its first token"]
    decode_s: Annotated[Amount | None, "seconds from the first tokens to the last token of all rows"]


class Phases(TypedDict):
    """Seconds of one generation by `--phases`."""

    vision_s: Annotated[Amount | None, "seconds in the image encoder; null where it cannot be told apart"]
    prefill_s: Annotated[Amount | None, "seconds in the pass over the prompt"]
    draft_s: Annotated[Amount | None, "seconds in passes that draft"]
    verify_s: Annotated[Amount | None, "seconds in passes that verify"]
    other_s: Annotated[float | None, "seconds outside the model's passes"]


class Ranks(TypedDict):
    """Ranks of given answers by log-likelihood, 1 for the likeliest, in the order of the options."""

    sum: Annotated[list[Positive], "by the sum over an option's tokens"]
    mean: Annotated[list[Positive], "by the mean over an option's tokens"]


class Losslessness(TypedDict):
    """How the output of a lossless method compares with the reference's."""

    outcome: Annotated[
        Literal["identical", "near-tie", "unsteady", "violation", "unchecked"], "what the comparison found"
    ]
    index: NotRequired[Annotated[Count, "place of the token that decided"]]
    token: NotRequired[Annotated[int | None, "the output's token id there"]]
    expected: NotRequired[Annotated[int | None, "the target's own token id there"]]
    gap: NotRequired[Annotated[float | None, "logits by which the target prefers its own token"]]
    epsilon: NotRequired[Annotated[float | None, "the largest gap, in logits, that rounding explains"]]
    block_noise: NotRequired[Annotated[float | None, "logits by which reading in blocks moves the target's own gaps"]]
    batch_noise: NotRequired[Annotated[float | None, "logits by which the batch moves the target's own gaps"]]
    reason: NotRequired[Annotated[str, "why it is unchecked"]]
    own_context: NotRequired[
        Annotated[Literal[True], "the method's earlier answers differ from the reference's: its output is compared "
                  "with what the reference decodes after these very answers"]
    ]  # fmt: skip


class SampleLine(TypedDict):
    """One suite x sample x method x repeat. Of lines with the same key the last one counts."""

    v: Annotated[Literal[1], "schema version"]
    seq: Annotated[Count, "number of the line, from 0"]
    suite: Annotated[str, "part of the key: name of the suite"]
    sample_id: Annotated[str, "part of the key: id of the sample within the suite"]
    dialog: NotRequired[Annotated[str, "id of the sample whose turn this is, where it has several turns"]]
    turn: NotRequired[Annotated[Positive, "which of its turns, from 1"]]
    method: Annotated[str, "part of the key: label of the method"]
    repeat: Annotated[Count, "part of the key: number of the repetition, from 0"]
    order: Annotated[Count, "place in the turn of methods, from 0"]
    seed: NotRequired[Annotated[Count, "seed of torch's generators for this line, where tokens were drawn"]]
    invocation: NotRequired[Annotated[Count, "number of the process, from 0"]]
    prompt_tokens: NotRequired[Annotated[Positive, "tokens of the prompt, those of its images included"]]
    token_ids: Annotated[list[Count] | None, "new tokens, up to and including EOS"]
    text: Annotated[str | None, "the new tokens as text"]
    stop: Annotated[
        Literal["eos", "length", "criteria"] | None,
        "what ended the output: its EOS, the limit, or a stop string of the checkpoint",
    ]
    ttft_s: Annotated[Amount | None, "seconds from the request to the first token"]
    vision_s: Annotated[Amount | None, "seconds of encoding the image; null where they cannot be told from the prefill"]
    prefill_s: Annotated[Amount | None, "seconds of the pass over the prompt"]
    decode_s: Annotated[Amount | None, "seconds from the first token to the last"]
    rounds: Annotated[list[Round], "[drafted, tested, accepted, emitted, draft_s, verify_s] each: tokens, then seconds"]
    token_chars: NotRequired[Annotated[list[Count], "for each new token how many characters of `text` it completes"]]
    rejected_ids: NotRequired[
        Annotated[list[list[Count]], "for each round the drafted tokens that did not stand: the rejected one, then "
                  "those after it, which were never tested; missing where nothing was drafted"]
    ]  # fmt: skip
    rejected_pieces: NotRequired[Annotated[list[list[str]], "the text of each of these tokens"]]
    levels: NotRequired[
        Annotated[list[list[tuple[Count, Count, Count]]], "of `hierarchical`: for each round and each exit but the "
                  "lowest [drafted, tested, accepted] of what it checked"]
    ]  # fmt: skip
    memory: Annotated[Memory | None, "peaks; null where the sample failed"]
    scores: Annotated[dict[str, Any], "reserved"]
    image_s: NotRequired[Annotated[Amount, "seconds of reading and decoding the image, outside the clock"]]
    processor_s: NotRequired[Annotated[Amount, "seconds of the processor, outside the clock"]]
    batch: NotRequired[Annotated[Batch, "with --batch-size above 1; the line's own seconds are then shares"]]
    phases: NotRequired[Annotated[Phases, "with --phases"]]
    ranks: NotRequired[Annotated[Ranks, "in suites that rank given answers"]]
    losslessness: NotRequired[Annotated[Losslessness | None, "null for the reference and for lossy methods"]]
    flags: NotRequired[
        Annotated[list[Literal["throttled", "not_isolated", "stalled"]], "what was seen while the group was measured"]
    ]
    error: Annotated[str | None, "null, or KIND: MESSAGE of a failed sample, of which nothing measured is kept"]
    crc32: Annotated[str, Limits(pattern="^[0-9a-f]{8}$"), "CRC-32 of the line's bytes without this last key"]
