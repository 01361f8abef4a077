"""The options that several commands share, and what the panels of their help are called."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT, MODEL, HOW = "What is decoded", "The model and how it is loaded", "How it is decoded"
MEASUREMENT, OUTPUT = "Measurement", "Output"
RESULTS = Path("results")


def _configure(context: typer.Context, value: Path | None) -> Path | None:
    """Values of the file take the place of the defaults; the command line wins over both."""
    if value is not None:
        from fastvlm_bench.cli.config_file import read_config

        context.default_map = read_config(value, context.command)
    return value


def _allow_pixels(most: int | None) -> int | None:
    if most is None:
        return None
    from fastvlm_bench.suites.image_files import allow_pixels

    return allow_pixels(most)


# fmt: off
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", callback=_configure, is_eager=True, help="A TOML, YAML or JSON file whose keys are options, or an earlier run's folder; the command line wins over it. See docs/options.md.")]
Model = Annotated[str, typer.Option(metavar="MODEL", help="`tiny` (embedded), `smol`, a hub id, ID@REVISION, or a checkpoint folder.", rich_help_panel=MODEL)]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="The branch, tag or commit of a hub id, as in ID@REVISION.", rich_help_panel=MODEL)]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=MODEL)]
Dtype = Annotated[str, typer.Option(metavar="NAME", help="auto (float32 on the CPU), float32 (fp32), bfloat16 (bf16) or float16 (fp16).", rich_help_panel=MODEL)]
DeviceMap = Annotated[str | None, typer.Option(metavar="NAME", help="auto: spread the layers over all devices (accelerate).", rich_help_panel=MODEL)]
TensorParallel = Annotated[bool, typer.Option("--tensor-parallel/--no-tensor-parallel", help="Under torchrun: each process holds a part of the target's matrices, and all decode in step, for targets larger than a device.", rich_help_panel=MODEL)]
Attn = Annotated[str | None, typer.Option("--attn", "--attn-implementation", metavar="NAME", help="sdpa, eager or flash_attention_2; default: transformers' choice.", rich_help_panel=MODEL)]
Quantize = Annotated[str | None, typer.Option(metavar="BITS", help="4bit or 8bit (bitsandbytes), or int8 (torchao).", rich_help_panel=MODEL)]
Engine = Annotated[str, typer.Option(metavar="NAME", help="How passes run, of every method alike: eager; graphs, which records each kind of pass once and repeats it; or auto, which is graphs on CUDA and on a CPU where it says the same, else eager. See docs/engines.md.", rich_help_panel=HOW)]
Compile = Annotated[bool, typer.Option("--compile/--no-compile", help="Let torch compile the norms and feed-forward networks of the layers, for every method alike.", rich_help_panel=HOW)]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code/--no-trust-remote-code", help="Run Python code that the model brings.", rich_help_panel=MODEL)]
Offline = Annotated[bool, typer.Option("--offline/--no-offline", help="Never ask the hub: only what is in the cache.", rich_help_panel=MODEL)]
Metric = Annotated[list[str] | None, typer.Option("--metric", metavar="METRIC", help="A further metric, by its name (see `metrics`) or the path of a file; repeatable.", rich_help_panel=MEASUREMENT)]
Trackers = Annotated[list[str] | None, typer.Option("--report-to", metavar="NAME", help="Also send the numbers to wandb or mlflow; repeatable. See docs/options.md.", rich_help_panel=OUTPUT)]
MaxImagePixels = Annotated[int | None, typer.Option("--max-image-pixels", metavar="N", callback=_allow_pixels, help="Read images of up to so many pixels; default: Pillow's limit, about 89 million.", rich_help_panel=WHAT)]
Quiet = Annotated[bool, typer.Option("--quiet/--no-quiet", "-q", help="No progress: only results, warnings and errors.", rich_help_panel=OUTPUT)]
Details = Annotated[bool, typer.Option("--details/--no-details", help="Print every table, not one screen.", rich_help_panel=OUTPUT)]
# fmt: on


def chosen_model(context: typer.Context, model: str, revision: str | None) -> str:
    """The model's one name, ID@REVISION where --revision is given; UsageError where the two do not go together.

    A revision in the file of --config belongs to the model in it: neither outlives the other's being overruled.
    """
    from fastvlm_bench.models.names import split_revision, with_revision

    model_from, revision_from = (_source(context, name) for name in ("model", "revision"))
    if (model_from, revision_from) == ("COMMANDLINE", "DEFAULT_MAP"):
        revision = None
    if (model_from, revision_from) == ("DEFAULT_MAP", "COMMANDLINE"):
        model = split_revision(model)[0]
    return with_revision(model, revision)


def hush() -> None:
    """No bars of downloads and of loading, here and in the processes that this one starts; before they are imported."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


def _source(context: typer.Context, name: str) -> Any:
    source = context.get_parameter_source(name)
    return source.name if source is not None else None
