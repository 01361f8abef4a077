"""The command `utilisation`."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_bench.cli.options import (
    HOW,
    OUTPUT,
    WHAT,
    Attn,
    Config,
    Device,
    DeviceMap,
    Dtype,
    MaxImagePixels,
    Model,
    Offline,
    Quiet,
    Revision,
    TrustRemoteCode,
    chosen_model,
    hush,
)
from fastvlm_bench.cli.sweep import Data, MaxNewTokens, Prompt, PromptSet, Split


def utilisation(
    context: typer.Context,
    suite: Annotated[str, typer.Option("--suite", "-s", metavar="NAME", help="The suite; see `suites`.", rich_help_panel=WHAT)] = "describe",
    split: Split = None,
    data: Data = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first so many samples.", rich_help_panel=WHAT)] = None,
    prompt_set: PromptSet = None,
    prompt: Prompt = None,
    model: Model = "tiny",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    max_new_tokens: MaxNewTokens = None,
    key_share: Annotated[float, typer.Option(metavar="X", help="Share of a layer's neurons that one answer is said to use, at least one.", rich_help_panel=HOW)] = 0.001,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads; default: as many as torch takes.", rich_help_panel=HOW)] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write everything as one JSON object.", rich_help_panel=OUTPUT)] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a row for each layer as CSV.", rich_help_panel=OUTPUT)] = None,
    max_image_pixels: MaxImagePixels = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Read which share of its FFN neurons the model uses to answer a suite, below each exit and in all."""
    from fastvlm_bench.config import RunConfig
    from fastvlm_bench.errors import UsageError
    from fastvlm_bench.utilisation.tables import check_files, print_utilisation, write

    if not 0 < key_share <= 1:
        raise UsageError(f"--key-share is {key_share:g}; it must be above 0 and at most 1, as 0.001")
    check_files(json, csv)
    asked = RunConfig(
        suites=(suite,), model=chosen_model(context, model, revision), split=split,
        data=str(data) if data else None, limit=limit, max_new_tokens=max_new_tokens, prompt_set=prompt_set,
        prompt=prompt, device=device, dtype=dtype, device_map=device_map, attn=attn,
        trust_remote_code=trust_remote_code, offline=offline, threads=threads,
    )  # fmt: skip
    if quiet:
        hush()
    from rich.console import Console

    from fastvlm_bench.utilisation.study import utilisation as study

    found = study(asked, key_share, quiet=quiet)
    print_utilisation(Console(), found)
    made = write(found, json, csv)
    if made and not quiet:
        typer.echo(f"written: {', '.join(map(str, made))}", err=True)
