"""The commands `sweep` and `tune`."""

from collections.abc import Sequence
from dataclasses import replace
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
    Model,
    Offline,
    Quantize,
    Quiet,
    Revision,
    Trackers,
    TrustRemoteCode,
    chosen_model,
    hush,
)

GRID = "The grid"
# fmt: off
Suites = Annotated[list[str] | None, typer.Option("--suite", "-s", metavar="NAME", help="A suite, repeatable; see `suites`.", rich_help_panel=WHAT)]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="As in `run`.", rich_help_panel=WHAT)]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="As in `run`.", rich_help_panel=WHAT)]
PromptSet = Annotated[str | None, typer.Option(metavar="NAME", help="As in `run`.", rich_help_panel=WHAT)]
Prompt = Annotated[str | None, typer.Option(metavar="TEXT", help="As in `run`.", rich_help_panel=WHAT)]
DraftFolder = Annotated[str | None, typer.Option(metavar="DRAFT", help="A draft folder, a folder of them, or a hub repository; default: the model's.", rich_help_panel=GRID)]
MaxNewTokens = Annotated[int | None, typer.Option(metavar="N", help="Token limit; default: the suite's.", rich_help_panel=HOW)]
Temperature = Annotated[float | None, typer.Option(metavar="X", help="Sample at this temperature; default: greedy.", rich_help_panel=HOW)]
TopP = Annotated[float | None, typer.Option(metavar="X", help="As in `run`.", rich_help_panel=HOW)]
TopK = Annotated[int | None, typer.Option(metavar="N", help="As in `run`.", rich_help_panel=HOW)]
Seed = Annotated[int, typer.Option(metavar="N", help="Of everything random, the order of cells, too.", rich_help_panel=HOW)]
Threads = Annotated[int | None, typer.Option(metavar="N", help="CPU threads; default: the count at which `standard` is fastest.", rich_help_panel=MEASUREMENT)]
Out = Annotated[Path, typer.Option("--out", "--output", "-o", metavar="DIR", help="Folder that gets the record's folder.", rich_help_panel=OUTPUT)]
# fmt: on


def sweep(
    context: typer.Context,
    suite: Suites = None,
    split: Split = None,
    data: Data = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first so many samples of each suite.", rich_help_panel=WHAT)] = None,
    prompt_set: PromptSet = None,
    prompt: Prompt = None,
    exit_layer: Annotated[str | None, typer.Option(metavar="NS", help="Exit layers, as 1,2,4,8 or 2:12:2; default: every exit that has a draft.", rich_help_panel=GRID)] = None,
    head: Annotated[list[str] | None, typer.Option(metavar="HEAD", help="Kind of imitation head, repeatable; raw is the exit without one; default: at each exit the one that `run` takes.", rich_help_panel=GRID)] = None,
    gamma: Annotated[str, typer.Option("--gamma", "--num-speculative-tokens", metavar="NS", help="Most tokens drafted per round, as 2:12:2 (both ends count).", rich_help_panel=GRID)] = "2,4,8,12",
    stop: Annotated[str, typer.Option("--stop", "--stop-below", metavar="XS", help="Drafting stops before a token less probable than this, as 0,0.3,0.5; 0 is never.", rich_help_panel=GRID)] = "0,0.5",
    draft: DraftFolder = None,
    predict_first: Annotated[bool, typer.Option("--predict-first/--no-predict-first", help="Measure only the cells that a prediction holds possible winners, and say which it left out.", rich_help_panel=GRID)] = False,
    model: Model = "tiny",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    engine: Engine = "auto",
    compile: Compile = False,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = 0,
    warmup: Annotated[int, typer.Option(metavar="N", help="Samples decoded by each cell before anything counts.", rich_help_panel=MEASUREMENT)] = 1,
    repeats: Annotated[int, typer.Option(metavar="N", help="Repetitions of each sample; their median counts.", rich_help_panel=MEASUREMENT)] = 1,
    threads: Threads = None,
    require_lossless: Annotated[bool, typer.Option(help="As in `run`.", rich_help_panel=MEASUREMENT)] = False,
    out: Out = RESULTS,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with an interrupted sweep's folder, with its own options.", rich_help_panel=OUTPUT)] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the grid as CSV, and FILE-samples.csv beside it.", rich_help_panel=OUTPUT)] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Also draw the heat maps, with their data.", rich_help_panel=OUTPUT)] = None,
    to: Annotated[str, typer.Option("--format", "-f", metavar="FORMAT", help="Of --plots: pdf, png or svg.", rich_help_panel=OUTPUT)] = "pdf",
    json: Annotated[bool, typer.Option("--json/--no-json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)] = False,
    details: Details = False,
    trackers: Trackers = None,
    max_image_pixels: MaxImagePixels = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Measure every exit, head, γ and threshold on the same samples: which is the fastest, and which are as fast?"""
    from fastvlm_bench.config import RunConfig
    from fastvlm_bench.measuring.before_loading import drafts_of
    from fastvlm_bench.models.names import check_model_name
    from fastvlm_bench.report.trackers import check_trackers, senders
    from fastvlm_bench.sweeping.grid import make_grid
    from fastvlm_bench.sweeping.sweep import recorded, swept
    from fastvlm_bench.sweeping.sweep import sweep as measure

    check_trackers(trackers or [])
    suites, grid = tuple(suite or ("describe",)), None
    if resume is not None:
        refuse_measured(context, resume)
        asked = recorded(resume)
    else:
        asked = RunConfig(
            suites=suites, model=chosen_model(context, model, revision), draft=draft, split=split,
            data=str(data) if data else None, limit=limit, repeats=repeats, warmup=warmup, max_new_tokens=max_new_tokens,
            prompt_set=prompt_set, prompt=prompt, seed=seed, device=device, dtype=dtype, device_map=device_map, attn=attn,
            quantize=quantize, engine=engine, compile=compile, trust_remote_code=trust_remote_code, offline=offline, threads=threads, out=str(out),
            require_lossless=require_lossless, temperature=temperature, top_p=top_p, top_k=top_k,
        )  # fmt: skip
        check_model_name(asked.model)
        grid = make_grid(model=asked.model, drafts=drafts_of(asked), suite=suites[0], exit_layer=exit_layer,
                         head=head or [], gamma=gamma, stop=stop)  # fmt: skip
        asked = swept(asked, grid)
    if quiet:
        hush()
    raise typer.Exit(measure(asked, grid, resume=resume, csv=csv, as_json=json, quiet=quiet, details=details,
                             plots=plots, form=to, predict_first=predict_first, after=senders(trackers or [])))  # fmt: skip


def tune(
    context: typer.Context,
    suite: Annotated[str, typer.Option("--suite", "-s", metavar="NAME", help="The suite; see `suites`.", rich_help_panel=WHAT)] = "describe",
    split: Split = None,
    data: Data = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Of data without a training split, set aside samples of the first N.", rich_help_panel=WHAT)] = None,
    prompt_set: PromptSet = None,
    prompt: Prompt = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", metavar="METHOD", help="A candidate, as in `run`, repeatable: instead of the grid, the fastest of these.", rich_help_panel=GRID)] = None,
    budget: Annotated[float, typer.Option(metavar="MINUTES", help="Minutes for all of it, loading too.", rich_help_panel=MEASUREMENT)] = 10.0,
    exit_layer: Annotated[str | None, typer.Option(metavar="NS", help="As in `sweep`.", rich_help_panel=GRID)] = None,
    head: Annotated[list[str] | None, typer.Option(metavar="HEAD", help="As in `sweep`.", rich_help_panel=GRID)] = None,
    gamma: Annotated[str, typer.Option("--gamma", "--num-speculative-tokens", metavar="NS", help="As in `sweep`.", rich_help_panel=GRID)] = "2,4,6,8,12,16",
    stop: Annotated[str, typer.Option("--stop", "--stop-below", metavar="XS", help="As in `sweep`.", rich_help_panel=GRID)] = "0,0.3,0.5,0.7",
    draft: DraftFolder = None,
    model: Model = "tiny",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    engine: Engine = "auto",
    compile: Compile = False,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = 0,
    threads: Threads = None,
    out: Out = RESULTS,
    max_image_pixels: MaxImagePixels = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Find the fastest options of `fastvlm`, or of any method, within some minutes, on samples that no run reports."""
    from fastvlm_bench.config import RunConfig
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.measuring.before_loading import drafts_of
    from fastvlm_bench.method_spec import REFERENCE
    from fastvlm_bench.models.names import check_model_name
    from fastvlm_bench.sweeping.grid import make_grid
    from fastvlm_bench.sweeping.sweep import swept

    if not 0 < budget <= MOST_MINUTES:
        raise UsageError(f"--budget is {budget:g}; it must be minutes above 0, at most {MOST_MINUTES}")
    asked = RunConfig(
        suites=(suite,), model=chosen_model(context, model, revision), draft=draft, split=split,
        data=str(data) if data else None, limit=limit, max_new_tokens=max_new_tokens, prompt_set=prompt_set,
        prompt=prompt, seed=seed, device=device, dtype=dtype, device_map=device_map, attn=attn, quantize=quantize, engine=engine, compile=compile,
        trust_remote_code=trust_remote_code, offline=offline, threads=threads, out=str(out), temperature=temperature,
        top_p=top_p, top_k=top_k, budget=budget * 60,
    )  # fmt: skip
    check_model_name(asked.model)
    if method:
        if typed := typed_options(context, ("exit_layer", "head", "gamma", "stop")):
            raise UsageError(f"-m names the candidates; leave out {', '.join(typed)}, or leave out -m")
        asked = replace(asked, methods=(REFERENCE, *method))
    else:
        grid = make_grid(model=asked.model, drafts=drafts_of(asked), suite=suite, exit_layer=exit_layer, head=head or [],
                         gamma=gamma, stop=stop)  # fmt: skip
        asked = swept(asked, grid)
    from fastvlm_bench.sweeping.tune import tune as measure

    if quiet:
        hush()
    raise typer.Exit(measure(asked, budget, quiet=quiet, named=bool(method)))


MOST_MINUTES = 24 * 60
SAID_ANEW = ("resume", "csv", "plots", "to", "json", "details", "trackers", "max_image_pixels", "quiet",
              "config")  # fmt: skip
"""Options that a resumed sweep takes from the command line; all others are its own."""


def refuse_measured(context: typer.Context, resume: Path) -> None:
    """UsageError where an option that says what is measured was typed beside --resume."""
    from fastvlm_bench.errors import UsageError

    measured = [str(param.name) for param in context.command.params if param.name not in SAID_ANEW]
    if typed := typed_options(context, measured):
        raise UsageError(f"--resume {resume} goes on with the sweep's own options; leave out {', '.join(typed)}")


def typed_options(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Of the parameters with these names, the options that stood on the command line, as --option."""
    typed: list[Any] = [param for param in context.command.params if param.name in names
                        and getattr(context.get_parameter_source(str(param.name)), "name", "") == "COMMANDLINE"]  # fmt: skip
    return [next(opt for opt in param.opts if opt.startswith("--")) for param in typed]
