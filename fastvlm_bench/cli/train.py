"""The commands `train` and `ablate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastvlm_bench.cli.options import (
    MEASUREMENT,
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

DATA, DRAFT = "What it learns on", "The draft"
COURSE, BACKBONE = "The course of the training", "Phase 1, optional: the model itself learns first"

# fmt: off
Heads = Annotated[list[str] | None, typer.Option("--head", metavar="HEAD", help="linear, mlp, gated-mlp, attention, twig, eagle, block, or medusa, which has no exit; or head:key=value,… (depth, places, heads, loss weights, refine=0, name=…); repeatable.", rich_help_panel=DRAFT)]
Threads = Annotated[int | None, typer.Option(metavar="N", help="CPU threads.", rich_help_panel=COURSE)]
Seed = Annotated[int, typer.Option(metavar="N", help="Of everything random.", rich_help_panel=COURSE)]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="The suite's split to train on; default: train.", rich_help_panel=DATA)]
Images = Annotated[Path | None, typer.Option(metavar="DIR", help="Instead of a suite: a folder of images, with --prompts.", rich_help_panel=DATA)]
Prompts = Annotated[Path | None, typer.Option(metavar="FILE", help="A text file with one prompt a line, for --images.", rich_help_panel=DATA)]
PromptSet = Annotated[str | None, typer.Option(metavar="NAME", help="Whose prompts, as in `run`.", rich_help_panel=DATA)]
Prompt = Annotated[str | None, typer.Option(metavar="TEXT", help="A prompt of your own, as in `run`.", rich_help_panel=DATA)]
MaxNewTokens = Annotated[int | None, typer.Option(metavar="N", help="Token limit of a text; default: the suite's.", rich_help_panel=DATA)]
Restart = Annotated[bool, typer.Option("--restart/--no-restart", help="Forget what lies in --out and start over.", rich_help_panel=OUTPUT)]
# fmt: on


def train(
    context: typer.Context,
    *,
    suite: Annotated[list[str] | None, typer.Option("--suite", "-s", metavar="NAME", help="A suite to train on, repeatable; `describe` for a first try.", rich_help_panel=DATA)] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the suite's official files; without it scenes are rendered (tiny).", rich_help_panel=DATA)] = None,
    split: Split = None,
    images: Images = None,
    prompts: Prompts = None,
    prompt_set: PromptSet = None,
    prompt: Prompt = None,
    head: Heads = None,
    exit_layer: Annotated[str, typer.Option(metavar="N", help="Exit layers, as 4,8,16; auto trains candidates briefly and takes the one with the best predicted speed-up.", rich_help_panel=DRAFT)] = "auto",
    loss: Annotated[str | None, typer.Option(metavar="LOSSES", help="NAME=WEIGHT,… of cosine, smooth_l1, kd, ce, acceptance; default cosine=0.1,kd=1,ce=0.5.", rich_help_panel=DRAFT)] = None,
    on_policy: Annotated[bool, typer.Option("--on-policy/--no-on-policy", help="Learn on the target's own answers.", rich_help_panel=DATA)] = True,
    references: Annotated[bool, typer.Option("--references/--no-references", help="Learn on the suite's reference texts, too.", rich_help_panel=DATA)] = False,
    samples: Annotated[int, typer.Option(metavar="N", help="At most so many training samples.", rich_help_panel=DATA)] = 1200,
    held_out: Annotated[int, typer.Option(metavar="N", help="Samples kept for validation, with their images.", rich_help_panel=DATA)] = 48,
    max_new_tokens: MaxNewTokens = None,
    updates: Annotated[int, typer.Option(metavar="N", help="Optimiser steps of the main stage.", rich_help_panel=COURSE)] = 400,
    refine: Annotated[int, typer.Option(metavar="N", help="Further steps that learn from rejections; 0 for none.", rich_help_panel=COURSE)] = 100,
    batch: Annotated[int, typer.Option(metavar="N", help="Texts a step.", rich_help_panel=COURSE)] = 16,
    micro: Annotated[int, typer.Option(metavar="N", help="Texts that pass the target together; halved when memory runs out.", rich_help_panel=COURSE)] = 16,
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate (Muon).", rich_help_panel=COURSE)] = 1e-2,
    validate_every: Annotated[int, typer.Option(metavar="N", help="Steps between two validations.", rich_help_panel=COURSE)] = 50,
    patience: Annotated[int, typer.Option(metavar="N", help="Stop after so many validations without a better prediction; 0 never.", rich_help_panel=COURSE)] = 0,
    draft_vocabulary: Annotated[int, typer.Option(metavar="N", help="Draft only with so many of the most frequent token ids; 0 for all.", rich_help_panel=DRAFT)] = 0,
    finetune_backbone: Annotated[str | None, typer.Option(metavar="KIND", help="lora or full: train the decoder layers on task and exit loss. Writes OUT/backbone, and says what it did to quality.", rich_help_panel=BACKBONE)] = None,
    backbone_updates: Annotated[int, typer.Option(metavar="N", help="Optimiser steps.", rich_help_panel=BACKBONE)] = 400,
    backbone_lr: Annotated[float, typer.Option(metavar="X", help="Learning rate.", rich_help_panel=BACKBONE)] = 3e-4,
    exit_weight: Annotated[float, typer.Option(metavar="X", help="Weight of the exit loss beside the task loss.", rich_help_panel=BACKBONE)] = 0.3,
    seed: Seed = 0,
    model: Model = "tiny",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    threads: Threads = None,
    out: Annotated[Path, typer.Option("--out", "--output", "-o", metavar="DIR", help="Folder for the draft; the same command goes on with it.", rich_help_panel=OUTPUT)],
    push: Annotated[str | None, typer.Option(metavar="REPO", help="Upload the finished draft to this hub repository.", rich_help_panel=OUTPUT)] = None,
    restart: Restart = False,
    max_image_pixels: MaxImagePixels = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Train an imitation head for a model's own early layers; the model itself stays as it is."""
    from fastvlm_bench.suites.catalogue import known_suite
    from fastvlm_bench.training.settings import TrainSettings

    chosen: dict[str, Any] = {"heads": tuple(head)} if head else {}
    settings = TrainSettings(
        out=str(out), model=chosen_model(context, model, revision), suites=tuple(map(known_suite, suite or ())), data=_text(data),
        split=split, images=_text(images), prompts=_text(prompts), prompt_set=prompt_set, prompt=prompt,
        exit_layers=tuple(exit_layer.split(",")),
        loss=loss, on_policy=on_policy, references=references, samples=samples, held_out=held_out,
        max_new_tokens=max_new_tokens, updates=updates, refine_updates=refine, batch=batch, micro=micro, lr=lr,
        validate_every=validate_every, patience=patience, draft_vocabulary=draft_vocabulary,
        finetune_backbone=finetune_backbone, backbone_updates=backbone_updates, backbone_lr=backbone_lr,
        exit_weight=exit_weight, seed=seed, device=device, dtype=dtype, device_map=device_map, attn=attn,
        quantize=quantize, trust_remote_code=trust_remote_code, offline=offline, threads=threads, push=push,
        restart=restart, **chosen,
    )  # fmt: skip
    settings.validate()
    from fastvlm_bench.training.fit import train as fit

    if quiet:
        hush()
    raise typer.Exit(fit(settings, quiet=quiet))


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None


def ablate(
    context: typer.Context,
    *,
    suite: Annotated[list[str] | None, typer.Option("--suite", "-s", metavar="NAME", help="Suites to train and to measure on, repeatable; default describe.", rich_help_panel=DATA)] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="As in `train`; the run reads it, too.", rich_help_panel=DATA)] = None,
    samples: Annotated[int, typer.Option(metavar="N", help="As in `train`.", rich_help_panel=DATA)] = 1200,
    held_out: Annotated[int, typer.Option(metavar="N", help="As in `train`.", rich_help_panel=DATA)] = 48,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", metavar="RECIPE", help="head:exit_layer=N,key=value,…, repeatable; `default` (alone or among others): heads x exits, each loss left out, no refinement.", rich_help_panel=DRAFT)] = None,
    exit_layer: Annotated[str, typer.Option(metavar="N", help="Exits of the default recipes, as 1,2.", rich_help_panel=DRAFT)] = "1,2",
    updates: Annotated[int, typer.Option(metavar="N", help="As in `train`.", rich_help_panel=COURSE)] = 400,
    refine: Annotated[int, typer.Option(metavar="N", help="As in `train`.", rich_help_panel=COURSE)] = 100,
    seed: Seed = 0,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads, of training and measuring.", rich_help_panel=COURSE)] = None,
    model: Model = "tiny",
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    attn: Attn = None,
    quantize: Quantize = None,
    trust_remote_code: TrustRemoteCode = False,
    offline: Offline = False,
    raw_exit: Annotated[str, typer.Option(metavar="N", help="Exits at which the raw exit is measured beside them.", rich_help_panel=MEASUREMENT)] = "1,2",
    gamma: Annotated[int, typer.Option("--gamma", "--num-speculative-tokens", metavar="N", help="Of every draft when measured.", rich_help_panel=MEASUREMENT)] = 10,
    stop_below: Annotated[float, typer.Option(metavar="X", help="Likewise.", rich_help_panel=MEASUREMENT)] = 0.5,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Samples measured of each suite.", rich_help_panel=MEASUREMENT)] = None,
    out: Annotated[Path, typer.Option("--out", "--output", "-o", metavar="DIR", help="Folder for drafts, run and table; the same command goes on with it.", rich_help_panel=OUTPUT)],
    also: Annotated[list[Path] | None, typer.Option(metavar="DIR", help="A run folder whose drafts join the table, repeatable.", rich_help_panel=OUTPUT)] = None,
    max_image_pixels: MaxImagePixels = None,
    quiet: Quiet = False,
    config: Config = None,
) -> None:  # fmt: skip
    """Train many recipes on the same texts, measure them on the same samples, and write one table."""
    from fastvlm_bench.config import RunConfig
    from fastvlm_bench.drafts.manifest import decoded_by
    from fastvlm_bench.suites.catalogue import known_suite
    from fastvlm_bench.training.settings import TrainSettings, whole_numbers

    suites, model = tuple(map(known_suite, suite or ("describe",))), chosen_model(context, model, revision)
    loading: dict[str, Any] = {
        "device": device, "dtype": dtype, "device_map": device_map, "attn": attn, "quantize": quantize,
        "trust_remote_code": trust_remote_code, "offline": offline,
    }  # fmt: skip
    exits = whole_numbers("--exit-layer", exit_layer)
    from fastvlm_bench.training.recipe import at_the_end, default_recipes

    asked = recipe or ["default"]
    heads = [text for given in asked for text in (default_recipes(exits) if given == "default" else [given])]
    settings = TrainSettings(
        out=str(out / "drafts"), model=model, suites=suites, data=_text(data), heads=tuple(heads),
        exit_layers=("auto",) if all(map(at_the_end, heads)) else tuple(map(str, exits)), samples=samples, updates=updates, refine_updates=refine, held_out=held_out,
        seed=seed, threads=threads, **loading,
    )  # fmt: skip
    recipes = settings.validate().recipes()
    options = f"gamma={gamma},stop_below={stop_below:g}"
    methods = [f"layerskip:exit_layer={n},{options}" for n in whole_numbers("--raw-exit", raw_exit)]
    methods += [f"{decoded_by(made.head)}:draft={made.name},{options}" for made in recipes]
    methods += [f"block:draft={made.name}" for made in recipes if made.head == "block"]
    measured = RunConfig(
        suites=suites, model=model, data=_text(data), draft=str(out / "drafts"), methods=tuple(methods), limit=limit,
        seed=seed, threads=threads, out=str(out), **loading,
    )  # fmt: skip
    from fastvlm_bench.ablation.run import ablate as run_ablation

    if quiet:
        hush()
    raise typer.Exit(run_ablation(settings, measured, also or [], quiet=quiet))
