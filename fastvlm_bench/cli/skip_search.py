"""The command `skip-search`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastvlm_bench.cli.options import (
    OUTPUT,
    Attn,
    Config,
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
from fastvlm_bench.cli.train import (
    COURSE,
    DATA,
    Images,
    MaxNewTokens,
    Prompt,
    Prompts,
    PromptSet,
    Restart,
    Seed,
    Split,
    Threads,
)


def skip_search(
    context: typer.Context,
    *,
    suite: Annotated[list[str] | None, typer.Option("--suite", "-s", metavar="NAME", help="A suite on whose training split sets are judged, repeatable.", rich_help_panel=DATA)] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="As in `train`.", rich_help_panel=DATA)] = None,
    split: Split = None,
    images: Images = None,
    prompts: Prompts = None,
    prompt_set: PromptSet = None,
    prompt: Prompt = None,
    samples: Annotated[int, typer.Option(metavar="N", help="Samples on which sets are judged.", rich_help_panel=DATA)] = 8,
    held_out: Annotated[int, typer.Option(metavar="N", help="Other samples, decoded at the end for the set's acceptance.", rich_help_panel=DATA)] = 8,
    max_new_tokens: MaxNewTokens = None,
    evaluations: Annotated[int, typer.Option(metavar="N", help="Sets that are judged.", rich_help_panel=COURSE)] = 200,
    budget: Annotated[float | None, typer.Option(metavar="MINUTES", help="Judge no more sets after this time.", rich_help_panel=COURSE)] = None,
    seed: Seed = 0,
    threads: Threads = None,
    model: Model = "tiny",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    out: Annotated[Path, typer.Option("--out", "--output", "-o", metavar="DIR", help="Folder for the set; the same command goes on with it.", rich_help_panel=OUTPUT)],
    restart: Restart = False,
    max_image_pixels: MaxImagePixels = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Find which of a model's attentions and MLPs to skip while it drafts, for `run -m draft-verify:draft=DIR`."""
    from fastvlm_bench.suites.catalogue import known_suite
    from fastvlm_bench.training.skip_settings import SkipSettings

    paths: dict[str, Any] = {
        key: None if path is None else str(path) for key, path in (("data", data), ("images", images), ("prompts", prompts))
    }  # fmt: skip
    settings = SkipSettings(
        out=str(out), model=chosen_model(context, model, revision), suites=tuple(map(known_suite, suite or ())), **paths, split=split,
        prompt_set=prompt_set, prompt=prompt, samples=samples, held_out=held_out, max_new_tokens=max_new_tokens,
        evaluations=evaluations, budget=budget, seed=seed, device=device, dtype=dtype, device_map=device_map, attn=attn,
        quantize=quantize, trust_remote_code=trust_remote_code, offline=offline, threads=threads, restart=restart,
    )  # fmt: skip
    settings.validate()
    from fastvlm_bench.training.skip_search import skip_search as search

    if quiet:
        hush()
    raise typer.Exit(search(settings, quiet=quiet))
