"""Checks before anything is trained: whether the target can be trained on, what memory that needs, and what is free."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from fastvlm_bench.checks.longest_prompt import encoded
from fastvlm_bench.checks.self_check import Plain, self_check
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import output_embeddings
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.memory_need import free_bytes
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.settings import TrainSettings

OPTIMISER_BYTES = 4 + 4 + 4  # per weight: float32 value, gradient, Muon's momentum; AdamW's few weights need one more


def preflight(settings: TrainSettings, target: Target, say: Callable[[str], None]) -> None:
    """Say what was loaded, and how much memory training is expected to take.

    UsageError for exits beyond the target's layers, and for a target that is spread over several devices.
    """
    layers, model = len(target.layers), target.model
    places = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(places) > 1 or places == ["meta"]:
        raise UsageError(
            f"--device-map put '{settings.model}' on {', '.join(places).replace('meta', 'disk or main memory')}: a "
            "draft is trained where the whole target is on one device; try --dtype bfloat16 or --quantize 4bit"
        )
    recipes = settings.recipes(1 if settings.automatic else None)
    for recipe in recipes:
        depth = recipe.depth
        if recipe.at_the_end:
            continue
        if recipe.exit_layer >= layers or recipe.exit_layer + depth > layers:
            raise UsageError(
                f"exit layer {recipe.exit_layer} and a head of {depth} more are beyond the {layers} layers of "
                f"'{settings.model}'; choose an exit of at most {layers - max(depth, 1)}"
            )
    estimate = memory_estimate(settings, target)
    free = free_bytes(target.device)
    say(
        f"{type(model).__name__}: {layers} layers, width {output_embeddings(model).in_features}, vocabulary "
        f"{output_embeddings(model).out_features}, {target.device}, {str(model.dtype).removeprefix('torch.')}"
    )
    say(
        f"memory beside the target: heads and optimiser {_size(estimate['heads'])}, logits of a micro-batch of "
        f"{settings.micro} about {_size(estimate['logits'])}; {_size(free)} are free"
    )
    if sum(estimate.values()) > free:
        say("this may not fit: a micro-batch that does not is halved, or give a smaller --micro")


def usable_exits(
    target: Target, sample: TrainingSample, exits: Sequence[int], *, some: bool = False
) -> list[int]:  # fmt: skip
    """Those of the exits at which the self-check lets the target be decoded, as every run will ask before it measures.

    UsageError where it refuses one; with `some`, where it refuses all.
    """
    inputs = encoded(target, sample.open(), sample.prompt, sample.sample_id)
    plain, found, refusals = Plain(target.model, inputs), list[int](), list[UsageError]()
    for exit_layer in dict.fromkeys(exits):
        try:
            self_check(target.model, inputs, exit_layer, plain=plain)
        except UsageError as error:
            refusals.append(error)
        else:
            found.append(exit_layer)
    if refusals and not (some and found):
        reason = str(refusals[0]).replace(", or --method standard", "").replace("; use --method standard", "")
        raise UsageError(f"no draft can be trained for it: {reason}") from refusals[0]
    return found


def memory_estimate(settings: TrainSettings, target: Target) -> dict[str, float]:
    """Bytes beside the target: heads (weights, gradient, optimiser) and the logits of all recipes on a micro-batch.

    Each recipe needs logits, their softmax and their gradient for every taught position, 3 x vocabulary x 4 bytes, and
    one of several heads needs them for each; the target's own logits are counted once more.
    """
    packed = [m for m in target.layers[0].modules() if isinstance(m, nn.Linear) and not m.weight.is_floating_point()]
    layer = sum(p.numel() for p in target.layers[0].parameters() if p.is_floating_point())
    layer += sum(m.in_features * m.out_features for m in packed)  # a copy of the layer has them unpacked
    output: Any = output_embeddings(target.model)
    width, vocabulary = output.in_features, output.out_features
    recipes = settings.recipes(1 if settings.automatic else None)
    heads = sum(_weights(recipe, layer, width, vocabulary) for recipe in recipes)
    positions = settings.micro * (settings.max_new_tokens or 128)
    drafted = sum(recipe.head_options.get("heads", 1) for recipe in recipes)
    return {
        "heads": float(heads * OPTIMISER_BYTES), "logits": float(positions * vocabulary * 4 * (3 * drafted + 1)),
    }  # fmt: skip


def _weights(recipe: Recipe, layer: int, width: int, vocabulary: int) -> int:
    """About how many weights the recipe trains. layer: how many a layer of the target has."""
    if recipe.at_the_end:
        each = width * width + (vocabulary * width if recipe.head_options["own_output"] else 0)
        return recipe.head_options["heads"] * each
    return layer * recipe.depth or 6 * width * width


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
