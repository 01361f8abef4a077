"""The command `predict`."""

from pathlib import Path
from typing import Annotated

import typer

from fastvlm_bench.cli.options import HOW, MODEL, OUTPUT, Offline, Revision, TrustRemoteCode, chosen_model

MACHINE = "The device"


def predict(
    context: typer.Context,
    model: Annotated[str, typer.Option(metavar="MODEL", help="`tiny`, a hub id, ID@REVISION, a folder, or a config.json. Weights are not read.", rich_help_panel=MODEL)] = "tiny",
    revision: Revision = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="float32 (fp32), bfloat16 (bf16) or float16 (fp16); default: the configuration's.", rich_help_panel=MODEL)] = None,
    quantize: Annotated[str | None, typer.Option(metavar="BITS", help="4bit or 8bit: layers' weights are read packed.", rich_help_panel=MODEL)] = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    device: Annotated[str, typer.Option(metavar="NAME", help="h100, h200, a100, rtx4090, … (an unknown name lists all), measured:FILE of `doctor --roofline --json`, or any name with --bandwidth and --tflops.", rich_help_panel=MACHINE)] = "h100",
    bandwidth: Annotated[float | None, typer.Option(metavar="GB/S", help="Memory bandwidth of your own, in 10⁹ bytes a second.", rich_help_panel=MACHINE)] = None,
    tflops: Annotated[float | None, typer.Option(metavar="N", help="Dense FLOP/s of your own, in 10¹².", rich_help_panel=MACHINE)] = None,
    memory: Annotated[float | None, typer.Option(metavar="GB", help="Memory of your own, in 10⁹ bytes.", rich_help_panel=MACHINE)] = None,
    exit_layer: Annotated[str | None, typer.Option(metavar="N", help="Layers run while drafting: N, or a list as 1,2,4; default: several.", rich_help_panel=HOW)] = None,
    head: Annotated[str | None, typer.Option(metavar="NAME", help="The imitation head: none (raw exit), linear, mlp, gated-mlp, attention, twig, eagle or block.", rich_help_panel=HOW)] = None,
    draft: Annotated[Path | None, typer.Option(metavar="DIR", help="A trained draft: its exit, head, and acceptance (speculation_profile.json).", rich_help_panel=HOW)] = None,
    alpha: Annotated[str | None, typer.Option(metavar="X", help="Acceptance: one number prices all tables, a list makes the rows of the surface.", rich_help_panel=HOW)] = None,
    gamma: Annotated[str | None, typer.Option("--gamma", "--num-speculative-tokens", metavar="N", help="The surface's columns, as 2,4,8.", rich_help_panel=HOW)] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="N", help="Sequences at a time, as 1,8,64; the first is the page's.", rich_help_panel=HOW)] = None,
    context_length: Annotated[str, typer.Option("--context", metavar="N", help="Positions in the cache, as 1024,4096; the first is the page's.", rich_help_panel=HOW)] = "1024",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)] = False,
) -> None:  # fmt: skip
    """Tell what decoding with a draft would take on a device, from the model's config.json alone."""
    from fastvlm_bench.models.names import long_dtype
    from fastvlm_bench.option_checks import check_loading
    from fastvlm_bench.predicting.asked import ALPHAS, BATCHES, GAMMAS, Asked, shares, whole_numbers
    from fastvlm_bench.predicting.devices import find_device
    from fastvlm_bench.predicting.surface import MOST_GAMMA

    named = long_dtype(dtype) if dtype is not None and dtype != "auto" else None
    check_loading(device="auto", dtype=named, quantize=quantize)
    asked = Asked(
        model=chosen_model(context, model, revision),
        exits=whole_numbers("--exit-layer", exit_layer) if exit_layer is not None else (), head=head, draft=draft,
        alphas=shares("--alpha", ALPHAS if alpha is None else alpha), gammas=whole_numbers("--gamma", GAMMAS if gamma is None else gamma, MOST_GAMMA),
        batches=whole_numbers("--batch-size", BATCHES if batch_size is None else batch_size),
        contexts=whole_numbers("--context", context_length), dtype=named, quantize=quantize,
        trust_remote_code=trust_remote_code, offline=offline,
    )  # fmt: skip
    found = find_device(device, bandwidth_gbs=bandwidth, tflops=tflops, memory_gb=memory)
    from fastvlm_bench.predicting.predict import predict as predicted

    result = predicted(asked, found)
    if json:
        from json import dumps

        typer.echo(dumps(result, indent=1, allow_nan=False))
        return
    from fastvlm_bench.predicting.page import print_page

    print_page(result)
