"""The command `run`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastvlm_bench.cli.options import (
    HOW,
    MEASUREMENT,
    OUTPUT,
    RESULTS,
    WHAT,
    Attn,
    Compile,
    Config,
    Details,
    Device,
    DeviceMap,
    Dtype,
    Engine,
    MaxImagePixels,
    Metric,
    Model,
    Offline,
    Quantize,
    Quiet,
    Revision,
    TensorParallel,
    Trackers,
    TrustRemoteCode,
    chosen_model,
    hush,
)


def run(
    context: typer.Context,
    suite: Annotated[list[str] | None, typer.Option("--suite", "-s", metavar="NAME", help="A suite, by its name (see `suites`) or the path of a file, NAME.toml; repeatable.", rich_help_panel=WHAT)] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="The suite's split; default: embedded, or what --data holds.", rich_help_panel=WHAT)] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the real data set, in its official layout or as parquet; or hf:OWNER/NAME[@REVISION] of the hub.", rich_help_panel=WHAT)] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first so many samples of each suite.", rich_help_panel=WHAT)] = None,
    prompt_set: Annotated[str | None, typer.Option(metavar="NAME", help="Whose prompts: lmms, llava or blip2, as the suite has them; default lmms.", rich_help_panel=WHAT)] = None,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="A prompt of your own, with {question} where the question belongs.", rich_help_panel=WHAT)] = None,
    model: Model = "tiny",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    tensor_parallel: TensorParallel = False,
    attn: Attn = None,
    quantize: Quantize = None,
    engine: Engine = "auto",
    compile: Compile = False,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", metavar="METHOD", help="name or name:key=value,…; repeatable; see `methods`.", rich_help_panel=HOW)] = None,
    draft: Annotated[str | None, typer.Option(metavar="DRAFT", help="A draft folder, a folder of them, or a hub repository; default: the model's.", rich_help_panel=HOW)] = None,
    control: Annotated[bool, typer.Option("--control/--no-control", help="In half precision, measure `control` beside the methods: what rounding alone changes.", rich_help_panel=HOW)] = True,
    gamma: Annotated[int | None, typer.Option("--gamma", "--num-speculative-tokens", metavar="N", help="Most tokens drafted per round, for methods that do not name their own.", rich_help_panel=HOW)] = None,
    exit_layer: Annotated[int | None, typer.Option(metavar="N", help="Layers run while drafting, likewise.", rich_help_panel=HOW)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(metavar="N", help="Token limit; default: the suite's.", rich_help_panel=HOW)] = None,
    ignore_eos: Annotated[bool, typer.Option(help="Decode to the token limit, whatever the model says: equal lengths for pure speed.", rich_help_panel=HOW)] = False,
    batch_size: Annotated[str, typer.Option(metavar="N", help="Samples decoded at a time, for throughput: N, or a list as 1,2,4,8 for a table over sizes. 1 is the honest setting for latency.", rich_help_panel=HOW)] = "1",
    temperature: Annotated[float | None, typer.Option(metavar="X", help="Sample at this temperature, exactly as the target would; default: greedy.", rich_help_panel=HOW)] = None,
    top_p: Annotated[float | None, typer.Option(metavar="X", help="Sample from the likeliest tokens that make up this probability.", rich_help_panel=HOW)] = None,
    top_k: Annotated[int | None, typer.Option(metavar="N", help="Sample from so many likeliest tokens.", rich_help_panel=HOW)] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of torch's generator, recorded.", rich_help_panel=HOW)] = 0,
    refine: Annotated[bool, typer.Option(help="Between samples, outside the clock, let drafts learn from their rejections; the report says how acceptance moves.", rich_help_panel=HOW)] = False,
    warmup: Annotated[int, typer.Option(metavar="N", help="Samples decoded by each method before anything counts.", rich_help_panel=MEASUREMENT)] = 3,
    repeats: Annotated[int, typer.Option(metavar="N", help="Repetitions of each sample; their median counts.", rich_help_panel=MEASUREMENT)] = 1,
    invocations: Annotated[int, typer.Option(metavar="N", help="Processes that measure all of it, one after the other: restarts vary, too.", rich_help_panel=MEASUREMENT)] = 1,
    shard: Annotated[str | None, typer.Option(metavar="i/N", help="Measure only the i-th of N equal shares of the samples, for job arrays; `merge` joins their folders.", rich_help_panel=MEASUREMENT)] = None,
    until_width: Annotated[float | None, typer.Option(metavar="X", help="End a suite when every decode speed-up is known to this share, such as 0.02.", rich_help_panel=MEASUREMENT)] = None,
    budget: Annotated[float | None, typer.Option(metavar="SECONDS", help="End a suite after so many seconds of measuring.", rich_help_panel=MEASUREMENT)] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads; default: the count at which `standard` is fastest.", rich_help_panel=MEASUREMENT)] = None,
    phases: Annotated[bool, typer.Option(help="Time vision, prefill, draft and verify inside the model, by events on a GPU.", rich_help_panel=MEASUREMENT)] = False,
    energy: Annotated[float | None, typer.Option(metavar="SECONDS", help="Then measure energy, too, in blocks of so many seconds of each method, 5 for example.", rich_help_panel=MEASUREMENT)] = None,
    require_lossless: Annotated[bool, typer.Option(help="Exit with 5 if an output has a token that the target would not have chosen.", rich_help_panel=MEASUREMENT)] = False,
    require_valid: Annotated[bool, typer.Option(help="Exit with 8 if the run is INVALID.", rich_help_panel=MEASUREMENT)] = False,
    min_decode_speedup: Annotated[float | None, typer.Option(metavar="X", help="Exit with 8 unless every method's decode speed-up is at least X, by its 95 % interval.", rich_help_panel=MEASUREMENT)] = None,
    min_alpha: Annotated[float | None, typer.Option(metavar="X", help="Exit with 8 unless every drafting method's α is at least X, likewise.", rich_help_panel=MEASUREMENT)] = None,
    max_quality_drop: Annotated[float | None, typer.Option(metavar="POINTS", help="Exit with 8 unless no metric drops by more, in points of 100, likewise.", rich_help_panel=MEASUREMENT)] = None,
    margin: Annotated[float, typer.Option(metavar="POINTS", help="Points of 100 that count as no difference in quality: equivalent within ±margin.", rich_help_panel=MEASUREMENT)] = 0.5,
    variant: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="METRIC=VARIANT, as vqa_accuracy=official; repeatable.", rich_help_panel=MEASUREMENT)] = None,
    metric: Metric = None,
    java: Annotated[bool, typer.Option("--java/--no-java", help="METEOR and SPICE of captions, too; needs Java and the extra coco-java.", rich_help_panel=MEASUREMENT)] = False,
    out: Annotated[Path, typer.Option("--out", "--output", "-o", metavar="DIR", help="Folder that gets the run's folder.", rich_help_panel=OUTPUT)] = RESULTS,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with an interrupted run's folder; options that are not given are those of that run.", rich_help_panel=OUTPUT)] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table as CSV, and FILE-samples.csv beside it.", rich_help_panel=OUTPUT)] = None,
    predictions_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write FILE-suite-method.json in the official results format.", rich_help_panel=OUTPUT)] = None,
    json: Annotated[bool, typer.Option("--json/--no-json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)] = False,
    show: Annotated[bool, typer.Option("--show/--no-show", help="Print each answer token by token when it is measured, outside the clock.", rich_help_panel=OUTPUT)] = False,
    details: Details = False,
    trackers: Trackers = None,
    max_image_pixels: MaxImagePixels = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Decode each sample with each method in turn and report speed, acceptance, memory and quality."""
    from fastvlm_bench.cli.resuming import as_recorded
    from fastvlm_bench.config import RunConfig
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.measuring.batch_sweep import parse_sizes, run_sizes
    from fastvlm_bench.report.trackers import check_trackers, senders

    sizes = parse_sizes(batch_size)
    check_trackers(trackers or [])
    chosen: dict[str, Any] = {"suites": tuple(suite)} if suite else {}
    chosen |= {"methods": tuple(method)} if method else {}
    options: dict[str, Any] = dict(
        **chosen, model=chosen_model(context, model, revision), draft=draft, gamma=gamma, exit_layer=exit_layer,
        split=split, data=str(data) if data else None, limit=limit, repeats=repeats, warmup=warmup,
        max_new_tokens=max_new_tokens, prompt_set=prompt_set, prompt=prompt,
        seed=seed, device=device, dtype=dtype, device_map=device_map, tensor_parallel=tensor_parallel, attn=attn, quantize=quantize, engine=engine, compile=compile,
        trust_remote_code=trust_remote_code, offline=offline, threads=threads, out=str(out),
        require_lossless=require_lossless, require_valid=require_valid, min_decode_speedup=min_decode_speedup,
        min_alpha=min_alpha, max_quality_drop=max_quality_drop, refine=refine, control=control, margin=margin, variants=tuple(variant or ()), java=java, metrics=tuple(metric or ()),
        temperature=temperature, top_p=top_p, top_k=top_k, ignore_eos=ignore_eos, phases=phases,
        invocations=invocations, shard=shard, until_width=until_width, budget=budget, energy=energy, batch_size=sizes[0],
    )  # fmt: skip
    asked = RunConfig.from_dict(as_recorded(context, options, resume))
    from fastvlm_bench.measuring.benchmark import run_benchmark

    if quiet:
        hush()
    shown: dict[str, Any] = {"csv": csv, "predictions": predictions_out, "as_json": json, "quiet": quiet,
                             "answers": show, "after": senders(trackers or [])}  # fmt: skip
    if len(sizes) > 1:
        if details:
            raise UsageError(
                "--details needs one batch size; report --details prints the tables of each run afterwards"
            )
        raise typer.Exit(run_sizes(asked, sizes, resume=resume, **shown))
    raise typer.Exit(run_benchmark(asked, resume=resume, details=details, **shown))
