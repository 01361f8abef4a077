"""The command `acceptance`."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_bench.cli.options import (
    HOW,
    OUTPUT,
    WHAT,
    Attn,
    Config,
    Details,
    Device,
    DeviceMap,
    Dtype,
    MaxImagePixels,
    Model,
    Offline,
    Quantize,
    Quiet,
    Revision,
    TrustRemoteCode,
    chosen_model,
    hush,
)
from fastvlm_bench.cli.sweep import GRID, Data, DraftFolder, MaxNewTokens, Prompt, PromptSet, Split


def acceptance(
    context: typer.Context,
    suite: Annotated[str, typer.Option("--suite", "-s", metavar="NAME", help="The suite; see `suites`.", rich_help_panel=WHAT)] = "describe",
    split: Split = None,
    data: Data = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first so many samples.", rich_help_panel=WHAT)] = None,
    prompt_set: PromptSet = None,
    prompt: Prompt = None,
    exit_layer: Annotated[str, typer.Option(metavar="NS", help="Exit layers, as 1,2,4,8 or 2:12:2, or all.", rich_help_panel=GRID)] = "all",
    head: Annotated[list[str] | None, typer.Option(metavar="HEAD", help="Kind of imitation head, repeatable; raw is the exit without one; default: raw and every draft.", rich_help_panel=GRID)] = None,
    draft: DraftFolder = None,
    gamma: Annotated[str, typer.Option("--gamma", "--num-speculative-tokens", metavar="NS", help="Most tokens drafted per round, for the predictions.", rich_help_panel=GRID)] = "2,4,8,12",
    stop: Annotated[str, typer.Option("--stop", "--stop-below", metavar="XS", help="Thresholds, for the predictions; 0 is never.", rich_help_panel=GRID)] = "0,0.5",
    against: Annotated[Path | None, typer.Option(metavar="RUN", help="Set the predictions beside what this run or sweep measured.", rich_help_panel=GRID)] = None,
    model: Model = "tiny",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    max_new_tokens: MaxNewTokens = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads; default: as many as torch takes.", rich_help_panel=HOW)] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write everything as one JSON object.", rich_help_panel=OUTPUT)] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the shares as CSV, and FILE-matrix.csv and FILE-predicted.csv beside it.", rich_help_panel=OUTPUT)] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the matrix; .pdf, .png or .svg.", rich_help_panel=OUTPUT)] = None,
    details: Details = False,
    max_image_pixels: MaxImagePixels = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Read how often each exit agrees with the target and with deeper exits, and what speed-up that promises."""
    from fastvlm_bench.agreement.files import check_files, write
    from fastvlm_bench.config import RunConfig

    check_files(json, csv, picture)
    asked = RunConfig(
        suites=(suite,), model=chosen_model(context, model, revision), draft=draft, split=split,
        data=str(data) if data else None, limit=limit, max_new_tokens=max_new_tokens, prompt_set=prompt_set,
        prompt=prompt, device=device, dtype=dtype, device_map=device_map, attn=attn, quantize=quantize,
        trust_remote_code=trust_remote_code, offline=offline, threads=threads,
    )  # fmt: skip
    if quiet:
        hush()
    from rich.console import Console

    from fastvlm_bench.agreement.study import Asked, study
    from fastvlm_bench.agreement.tables import print_study

    found = study(Asked(asked, exit_layer, tuple(head or ()), gamma, stop, against), quiet=quiet)
    print_study(Console(), found, details=details)
    made = write(found, json, csv, picture)
    if made and not quiet:
        typer.echo(f"written: {', '.join(map(str, made))}", err=True)
