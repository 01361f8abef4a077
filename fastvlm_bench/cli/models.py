"""The command `models`, and the options that say which model is loaded and how, shared with `run`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="`tiny` (embedded), a hub id, ID@REVISION, or a checkpoint folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option(help="auto (float32 on the CPU), float32, bfloat16 or float16.")]
DeviceMap = Annotated[str | None, typer.Option(help="auto: spread the layers over all devices (accelerate).")]
Attn = Annotated[str | None, typer.Option(help="sdpa, eager or flash_attention_2; default: transformers' choice.")]
Quantize = Annotated[str | None, typer.Option(help="4bit or 8bit (bitsandbytes).")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that the model brings.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub: only what is in the cache.")]


def models(
    check: Annotated[str | None, typer.Option(help="Load this model and say whether and how it can be run.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", "-s", help="A suite to ask it, repeatable; default: coco-caption.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="As in `run`; without it the embedded samples are asked.")] = None,
    draft: Annotated[Path | None, typer.Option(help="Also check this draft folder against the model.")] = None,
    exit_layer: Annotated[int | None, typer.Option(help="Only this exit layer; default: several.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
) -> None:
    """List the models that come with the tool and the families that it was proven on; with --check, try a model."""
    if check is None:
        _list_models()
        return
    from fastvlm_bench.config import check_loading
    from fastvlm_bench.models.names import check_model_name
    from fastvlm_bench.suites.suite import load_suite

    check_loading(device=device, dtype=dtype, device_map=device_map, attn=attn, quantize=quantize)
    check_model_name(check)
    loaded = [load_suite(name, data=data) for name in suite or ("coco-caption",)]
    from fastvlm_bench.checks.preflight import check_model

    _print_rows(
        check_model(
            check, loaded, draft, exit_layer, device=device, dtype=dtype, device_map=device_map, attn=attn,
            quantize=quantize, trust_remote_code=trust_remote_code, offline=offline,
        )
    )  # fmt: skip


def _list_models() -> None:
    from fastvlm_bench.drafts.manifest import read_manifests
    from fastvlm_bench.models.families import FAMILIES
    from fastvlm_bench.models.names import TINY_DRAFTS

    rows = [("tiny", "the embedded LLaVA of 24 layers, trained on rendered scenes; nothing is downloaded")]
    for folder, draft in read_manifests(TINY_DRAFTS).items():
        alpha = ", ".join(f"{suite} {value:.2f}" for suite, value in draft.validation.items())
        mark = " (default)" if draft.default else ""
        rows.append(
            (f"  {folder.name}", f"draft: exit {draft.exit_layer}, {draft.head} head, held-out α {alpha}{mark}")
        )
    rows.append(
        ("HUB_ID or FOLDER", "any image-text-to-text checkpoint of transformers; checked before use. Families:")
    )
    _print_rows([*rows, *((f"  {family.name}", f"{family.status}: {family.note}") for family in FAMILIES)])
    typer.echo("Any other family is tried by the same check: fastvlm-bench models --check HUB_ID --suite SUITE")


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    for name, text in rows:
        typer.echo(f"{name:<18} {text}")
