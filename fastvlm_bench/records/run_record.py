"""`run.json`, field by field. As in `sample_line`: what is NotRequired is missing in some records, None is null."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from fastvlm_bench.records.apart_record import Energy, KernelsRecord, MemoryParts, Outside, PassCostsRecord, WithoutStop
from fastvlm_bench.records.sample_line import Amount, Bytes, Count, Limits, Positive
from fastvlm_bench.records.shared_record import Merged, Rank, Shard, Time

Sha256 = Annotated[str, Limits(pattern="^[0-9a-f]{64}$")]


class Sample(TypedDict):
    """A sample as it was measured."""

    sample_id: Annotated[str, "id within the suite"]
    image_id: Annotated[str, "samples of one image share it"]
    prompt: Annotated[str, "what the model is asked"]
    references: Annotated[list[str], "reference texts, or the annotators' answers"]
    rendered: NotRequired[
        Annotated[str, "the exact text that the model read; {answer N} is the method's own answer to turn N"]
    ]
    group: NotRequired[Annotated[str, "part of the data set that it belongs to, by the official file"]]
    question: NotRequired[Annotated[str, "the data set's own text within the prompt"]]
    image_file: NotRequired[Annotated[str, "with --shard: name of the image's file"]]
    image_sha256: NotRequired[Annotated[Sha256, "with --shard: of the image's bytes"]]
    more_image_files: NotRequired[Annotated[list[str], "with --shard: the same of the images that follow the first"]]
    more_image_sha256: NotRequired[Annotated[list[Sha256], "with --shard: of the bytes of each of these"]]
    dialog: NotRequired[Annotated[str, "of a sample of several turns, each of which is an entry: the id of the whole"]]
    turn: NotRequired[Annotated[Positive, "which of the turns it is, from 1"]]
    images: NotRequired[Annotated[Positive, "how many images it has, where there are several"]]


class SuiteRecord(TypedDict):
    """A suite with the samples that were to be measured."""

    name: Annotated[str, "name of the suite"]
    version: Annotated[str, "version of the suite file"]
    kind: Annotated[Literal["caption", "vqa", "ranking"], "what its samples ask for"]
    split: Annotated[str, "split of the data set"]
    source: Annotated[str, "where the data lay"]
    sha256: Annotated[Sha256, "of annotations, names and sizes of images"]
    images_sha256: NotRequired[Annotated[Sha256, "of the images' bytes"]]
    prompt: Annotated[str, "template of the prompts"]
    prompt_set: NotRequired[Annotated[str, "whose prompt it is, or custom"]]
    max_new_tokens: Annotated[Positive, "token limit of an output"]
    metrics: Annotated[list[str], "names of the metrics"]
    variants: NotRequired[Annotated[dict[str, str], "metric: variant"]]
    document_images: NotRequired[Annotated[Count, "samples without --limit, where a metric weighs words by them"]]
    results: NotRequired[Annotated[str, "format of --predictions-out"]]
    licence: Annotated[str, "licence of the data"]
    citation: Annotated[str, "what to cite for the data"]
    turns: NotRequired[
        Annotated[
            Literal["own answers, prefilled again"],
            "what a later turn is asked after, where samples have several: the method's own earlier answers, as text; "
            "the whole prompt is prefilled again",
        ]
    ]
    note: NotRequired[Annotated[str, "what a reader of the numbers must know"]]
    samples: Annotated[list[Sample], "in the order of the official file"]


_Class = TypedDict("_Class", {"class": NotRequired[Annotated[str, "class of the model in transformers"]]})


class ModelRecord(_Class):
    """The target. A run that ended before it was loaded knows the id only."""

    id: Annotated[str, "what --model named"]
    revision: NotRequired[Annotated[str | None, "commit on the hub"]]
    quantized: NotRequired[Annotated[bool, "whether the weights are quantized"]]
    weights_sha256: NotRequired[Annotated[Sha256, "of the weights"]]
    processor_sha256: NotRequired[Annotated[Sha256, "of tokenizer, chat template and image processor"]]
    dtype: NotRequired[Annotated[str, "type of the weights, as float32"]]
    attention: NotRequired[Annotated[str | None, "implementation of attention"]]
    device: NotRequired[Annotated[str, "cpu, cuda:N or mps"]]
    layers: NotRequired[Annotated[Positive, "layers of the text model"]]
    parameters: NotRequired[Annotated[Count, "number of parameters"]]
    weights_bytes: NotRequired[Annotated[Bytes, "bytes of the weights"]]
    preflight: NotRequired[Annotated[dict[str, Any], "what was found before the first sample"]]
    config: NotRequired[
        Annotated[dict[str, Any], "every field of its configuration that may decide an output or a time"]
    ]
    processor: NotRequired[
        Annotated[dict[str, Any], "settings of each part of its processor; of tokenizer and template the SHA-256"]
    ]
    phase_1: NotRequired[Annotated[dict[str, Any], "how it was fine-tuned, for a model that was fine-tuned here"]]


class MethodRecord(TypedDict):
    """A method. A run that ended before the model was loaded knows the label only."""

    label: Annotated[str, "unique; the lines name it"]
    name: NotRequired[Annotated[str, "name of the method"]]
    spec: NotRequired[Annotated[str, "as it could be typed"]]
    lossless: NotRequired[Annotated[bool, "whether its greedy output is the target's own"]]
    options: NotRequired[Annotated[dict[str, Any], "its options, with those that the draft settles"]]
    stops: NotRequired[
        Annotated[bool, "whether drafting stops in doubt; else, where it lacks, if stop_below is above 0"]
    ]
    advised: NotRequired[Annotated[dict[str, Any], "those of the options that the draft's manifest advised"]]
    draft: NotRequired[Annotated[dict[str, Any] | None, "manifest of the draft, with its name and its weights' sha256"]]
    file_sha256: NotRequired[Annotated[Sha256, "of its file, for a method from outside the package"]]
    extra_bytes: NotRequired[Annotated[Bytes, "bytes that it needs beside the target"]]


class LeftOut(TypedDict):
    """A method that was not measured."""

    label: Annotated[str, "its name"]
    reason: Annotated[str, "why it does not fit"]


class Environment(TypedDict):
    """Machine and versions. Of many more fields these are read by reports; empty until the model was loaded."""

    cpu: NotRequired[Annotated[str | None, "name of the CPU"]]
    gpu: NotRequired[Annotated[str | None, "name of the GPU in use; null on the CPU"]]
    threads: NotRequired[Annotated[Positive | None, "torch's threads"]]
    engine: NotRequired[Annotated[str, "how passes ran, of every method alike: what `auto` stood for"]]
    compiled: NotRequired[Annotated[list[str], "with --compile: classes of the parts of layers that torch compiled"]]
    commit: NotRequired[Annotated[str | None, "commit of the checkout that ran"]]
    dirty: NotRequired[Annotated[bool | None, "whether that checkout had changes"]]
    torch: NotRequired[Annotated[str | None, "version of torch"]]
    transformers: NotRequired[Annotated[str | None, "version of transformers"]]
    reasons: NotRequired[Annotated[dict[str, str], "field: why it is null"]]
    self_check: NotRequired[Annotated[dict[str, Amount], "exit layer: relative difference of logits"]]
    self_check_own: NotRequired[
        Annotated[dict[str, Amount], "exit layer: by which the plain model's own blocks differ, likewise"]
    ]
    self_check_limit: NotRequired[Annotated[dict[str, Amount], "exit layer: the largest difference let in, likewise"]]


OPEN: tuple[type, ...] = (Environment,)
"""Types that take fields of any other name."""


class Notice(TypedDict):
    """A warning."""

    name: Annotated[str, "name of the warning"]
    message: Annotated[str, "what was seen, and what to do"]


class VerdictRecord(TypedDict):
    """Whether the numbers may be published."""

    status: Annotated[Literal["VALID", "INVALID"], "INVALID: do not publish these numbers"]
    reasons: Annotated[list[str], "why it is INVALID"]


class Totals(TypedDict):
    """Sums over all lines."""

    lines: NotRequired[Annotated[Count, "lines that count"]]
    failed: NotRequired[Annotated[Count, "of them failed"]]
    new_tokens: NotRequired[Annotated[Count, "tokens decoded"]]


class Generation(TypedDict):
    """The settings of `generate` for all methods: told by the run, else by the checkpoint's generation_config.json."""

    in_force: Annotated[dict[str, Any], "do_sample, num_beams, eos_token_id, and all others that may change tokens"]
    overridden: Annotated[dict[str, Any], "what the checkpoint asked for, and did not get"]


class Stopped(TypedDict):
    """How a suite ended with --until-width or --budget."""

    by: Annotated[Literal["samples", "width", "budget"], "what ended it"]
    groups: Annotated[Count, "groups of methods on one sample that were measured"]
    seconds: Annotated[Amount, "seconds that it took"]
    until_width: Annotated[float | None, "relative half-width that was asked for"]
    budget_s: Annotated[Amount | None, "seconds that were given"]
    widths: Annotated[dict[str, float | None], "method: relative half-width reached; null with too few images"]


class Predicted(TypedDict):
    """The speed-up that the costs of single passes and a few drafted answers promise of one cell."""

    method: Annotated[str, "label of the cell"]
    decode_speedup: Annotated[Amount, "predicted decode speed-up, the mean over the suites"]


class Refined(TypedDict):
    """What drafts learned between samples with --refine."""

    updates: Annotated[dict[str, Count], "method: updates of its draft"]
    seconds: Annotated[Amount, "seconds of learning, outside the clock"]
    lr: Annotated[float, "learning rate"]


class Swept(TypedDict):
    """What `sweep` was asked for; its cells are the methods."""

    head: Annotated[list[str], "kinds of imitation heads; raw is the exit without one"]
    exit_layer: Annotated[list[Positive], "layers run while drafting"]
    gamma: Annotated[list[Positive], "most tokens drafted per round"]
    stop_below: Annotated[list[Amount], "probabilities below which drafting stops; 0 is never"]
    predict_first: NotRequired[Annotated[bool, "whether cells were left out by a prediction"]]
    predicted: NotRequired[
        Annotated[list[Predicted], "with --predict-first: of each cell, before anything was measured"]
    ]


class SealedFile(TypedDict):
    """A file of the run folder when `run.json` was written."""

    bytes: Annotated[Bytes, "its length; of samples.jsonl that of its whole lines"]
    lines: NotRequired[Annotated[Count, "of samples.jsonl its lines, repeated ones too"]]
    sha256: Annotated[Sha256, "of these bytes"]


class Seal(TypedDict):
    """Digests by which a reader sees that something was altered. It is no signature."""

    sha256: Annotated[Sha256, "of all of run.json but this entry, as JSON with sorted keys and without spaces"]
    fields: Annotated[dict[str, str], "part of run.json: its CRC-32, to name what was altered"]
    files: Annotated[dict[str, SealedFile], "by name: samples.jsonl and document_frequencies.json"]


class EngineRecord(TypedDict):
    """The engine `graphs`, of the latest invocation. All of it happens outside the clock."""

    passes: Annotated[Count, "passes that were recorded, by method, mode, width and size of the cache"]
    record_s: Annotated[Amount, "seconds that recording took"]
    record_bytes: Annotated[Bytes, "bytes that recorded passes hold"]
    late: Annotated[Count, "of them recorded after the warm-up; the sample was then decoded once more"]
    turned: NotRequired[
        Annotated[
            Count,
            "kinds of products of a few rows, by rows and shape of the weights, that are "
            "computed in another order than the model's, because that is faster",
        ]
    ]
    self_check: Annotated[str, "how a first answer of the reference compares with the engine eager's"]
    eager: Annotated[list[str], "why eager decoded instead, for a method or all of them"]


class CompiledRecord(TypedDict):
    """What torch compiled, of the latest invocation. All of it happens outside the clock."""

    modules: Annotated[Count, "compiled modules, of the target and of drafts' heads"]
    graphs: Annotated[Count, "graphs that torch compiled in the process"]
    compile_s: Annotated[Amount, "seconds of the first compilation"]
    left_out: Annotated[dict[str, str], "class of a part: why torch does not compile it"]


class RunRecord(TypedDict):
    """A run: what was asked for, of what, where, and how it ended. Times are UTC."""

    schema_version: Annotated[Literal[1], "a reader refuses versions that it does not know"]
    run_id: Annotated[str, "name of the run's folder when it was made"]
    status: Annotated[
        Literal["started", "success", "interrupted", "error"], "how it ended; started: not yet, or killed"
    ]
    command: Annotated[list[str], "the command line"]
    config: Annotated[dict[str, str | float | bool | list[str] | None], "the options of `run` by name"]
    config_sha256: Annotated[Sha256, "of the options that change what is measured; --resume needs the same"]
    suites: Annotated[list[SuiteRecord], "in the order in which they are measured"]
    model: Annotated[ModelRecord, "the target"]
    methods: Annotated[list[MethodRecord], "the reference first"]
    left_out: NotRequired[
        Annotated[
            list[LeftOut], "methods that `all` stood for and that do not fit; cells that --predict-first left out"
        ]
    ]
    sweep: NotRequired[Annotated[Swept, "in a run by the command sweep"]]
    reference: Annotated[str, "label of the method that the others are compared with"]
    order: NotRequired[
        Annotated[Literal["williams"], "design of the order of methods on each sample; without it they rotated by one"]
    ]
    environment: Annotated[Environment, "machine and versions; null where unknown, with the reason in `reasons`"]
    started_at: Annotated[Time, "when it began"]
    completed_at: Annotated[Time | None, "when it ended"]
    totals: Annotated[Totals, "sums over all lines"]
    warnings: Annotated[list[Notice], "what a reader of the numbers should know"]
    verdict: Annotated[VerdictRecord | None, "null until something was measured and judged"]
    error: Annotated[str | None, "why it ended with status error"]
    shard: NotRequired[Annotated[Shard, "with --shard"]]
    ranks: NotRequired[Annotated[list[Rank], "where torchrun started several processes"]]
    merged: NotRequired[Annotated[Merged, "of a run by the command merge"]]
    memory: NotRequired[Annotated[list[MemoryParts], "parts of a peak, of each suite and method"]]
    costs: NotRequired[Annotated[list[PassCostsRecord], "of each suite and method that drafts; not for batches"]]
    kernels: NotRequired[Annotated[list[KernelsRecord], "of each suite and method, with --phases"]]
    without_stop: NotRequired[Annotated[list[WithoutStop], "of each suite and method that stops in doubt"]]
    generation: NotRequired[Annotated[Generation, "settings of generate that were in force"]]
    engine: NotRequired[Annotated[EngineRecord, "with --engine graphs"]]
    compiled: NotRequired[Annotated[CompiledRecord, "with --compile"]]
    conditions: NotRequired[Annotated[list[dict[str, Any]], "what slowed the machine down, one entry an invocation"]]
    outside: NotRequired[Annotated[list[Outside], "one entry an invocation"]]
    stopped: NotRequired[Annotated[dict[str, Stopped], "by suite, with --until-width or --budget"]]
    energy: NotRequired[Annotated[dict[str, Energy], "by suite, with --energy"]]
    refined: NotRequired[Annotated[Refined, "with --refine"]]
    sealed: NotRequired[Annotated[Literal[True], "there is a seal; older records have none"]]
    seal: NotRequired[Annotated[Seal, "digests of all of it, and of the files beside it"]]
