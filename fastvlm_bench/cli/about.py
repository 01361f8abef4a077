"""The commands that say what there is: `methods`, `metrics`, `models` and `doctor`."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from fastvlm_bench.cli.options import (
    RESULTS,
    Attn,
    Device,
    DeviceMap,
    Dtype,
    Offline,
    Quantize,
    Revision,
    TrustRemoteCode,
    chosen_model,
)
from fastvlm_bench.cli.results import Json, print_rows


def methods() -> None:
    """List the decoding methods and their options."""
    from fastvlm_bench.method_spec import ALL, GROUPS, METHODS, Option

    def said(option: Option) -> str:
        return option.help + (" (needed)" if option.needed else "") + (
            f" (default {option.default})" if option.default is not None else "")  # fmt: skip

    groups = {kind.group for kind in METHODS.values()}
    for group in [*(g for g in GROUPS if g in groups), *sorted(groups - set(GROUPS))]:
        print_rows([(f"{group}:", GROUPS.get(group, ""))])
        for name, kind in METHODS.items():
            if kind.group == group:
                print_rows([(f"  {name}", kind.description)])
                print_rows([(f"    {key}", said(option)) for key, option in kind.options.items()])
    print_rows([(ALL, "in the place of a method: every method that fits the model and needs no option")])


def metrics() -> None:
    """List the quality metrics, with their direction and the scale of the tables."""
    from fastvlm_bench.metrics import METRICS

    rows = []
    for name, kind in METRICS.items():
        better = "higher" if kind.higher_is_better else "lower"
        rows.append((name, f"{kind.label}: {kind.description} ({kind.unit}, {better} is better)"))
    print_rows(rows)


def models(
    context: typer.Context,
    check: Annotated[str | None, typer.Option(metavar="MODEL", help="Load this model and say whether and how it can be run.")] = None,
    suite: Annotated[list[str] | None, typer.Option("--suite", "-s", metavar="NAME", help="A suite to ask it, repeatable; default: coco-caption.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="As in `run`; without it the embedded samples are asked.")] = None,
    draft: Annotated[Path | None, typer.Option(metavar="DIR", help="Also check this draft folder against the model.")] = None,
    exit_layer: Annotated[int | None, typer.Option(metavar="N", help="Only this exit layer; default: several.")] = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
) -> None:  # fmt: skip
    """List the models that come with the tool and the families that it was proven on; with --check, try a model."""
    if check is None:
        _list_models()
        return
    from fastvlm_bench.models.names import check_model_name, long_dtype
    from fastvlm_bench.option_checks import check_loading
    from fastvlm_bench.suites.suite import load_suite

    check, dtype = chosen_model(context, check, revision), long_dtype(dtype)
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


def doctor(
    results: Annotated[Path, typer.Option("--out", "--output", "-o", metavar="DIR", help="The folder that would get results: is there room?")] = RESULTS,
    roofline: Annotated[bool, typer.Option("--roofline", help="Also measure bandwidth and FLOP/s, for `predict --device measured:FILE`.")] = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads of --roofline, as in `run`; default: torch's.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Describe this machine and advise on what would spoil a measurement; paste it into a bug report."""
    from fastvlm_bench.machine.doctor import examine

    if threads is not None:
        from fastvlm_bench.errors import UsageError
        from fastvlm_bench.option_checks import whole

        whole("threads", threads, 1, os.cpu_count() or 1)
        if not roofline:
            raise UsageError(f"--threads {threads} has no effect without --roofline; leave it out")
    typer.echo(examine(results, as_json=json, roofline=roofline, threads=threads))


def _list_models() -> None:
    from fastvlm_bench.drafts.manifest import read_manifests
    from fastvlm_bench.models.families import FAMILIES
    from fastvlm_bench.models.names import OWN, default_drafts

    rows = []
    for name, line in OWN.items():
        rows.append((name, line))
        root = default_drafts(name)
        for folder, draft in (read_manifests(root) if root else {}).items():
            alpha = ", ".join(f"{suite} {value:.2f}" for suite, value in draft.validation.items())
            mark = " (default)" if draft.default else ""
            rows.append((f"  {folder.name}", f"draft: {draft.place}, {draft.head} head, held-out α {alpha}{mark}"))
    rows.append(
        ("HUB_ID or FOLDER", "any image-text-to-text checkpoint of transformers; checked before use. Families:")
    )
    _print_rows([*rows, *((f"  {family.name}", f"{family.status}: {family.note}") for family in FAMILIES)])
    typer.echo("Any other family is tried by the same check: fastvlm-bench models --check HUB_ID --suite SUITE")


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    for name, text in rows:
        typer.echo(f"{name:<18} {text}")
