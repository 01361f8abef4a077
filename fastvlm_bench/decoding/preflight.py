"""What must be known of a target before any sample counts: what it is, what it reads, whether it can be gated."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastvlm_bench.clock import Clock
from fastvlm_bench.decoding.self_check import damaged, one_line, self_check
from fastvlm_bench.decoding.session import Session, text_cache
from fastvlm_bench.drafts import read_manifests
from fastvlm_bench.errors import NonFiniteLogits, UsageError
from fastvlm_bench.imitation_head import Draft
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.memory_need import free_bytes
from fastvlm_bench.models.prompting import prompting
from fastvlm_bench.suite import Suite, open_image

MIB = 1 << 20
MOST_EXITS = 4


def preflight(target: Target, suite: Suite, limit: int) -> dict[str, Any]:
    """Facts about the target on the suite's first sample, after one real prefill; bytes are integers.

    limit: most new tokens. `kv_bytes` is what the prompt's cache took, grown to the limit; sliding windows stay below.
    UsageError where the family cannot read the suite, or where the cache has no room.
    """
    sample, model = suite.samples[0], target.model
    inputs = target.encode(open_image(sample), sample.prompt)
    probe = _Prefill()
    try:
        with torch.inference_mode():
            model.generate(**inputs, max_new_tokens=2, do_sample=False, custom_generate=probe)
    except NonFiniteLogits:
        raise damaged(model) from None
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{type(model).__name__} cannot read sample {sample.sample_id}: {one_line(error)}") from error
    layers = text_cache(probe.cache).layers
    facts: dict[str, Any] = {
        "class": type(model).__name__, "layers_path": layers_path(target), "layers": len(target.layers),
        "caches": _count(type(layer).__name__ for layer in layers),
        "croppable": bool(getattr(probe.cache, "is_croppable", False)),
        "prompting": prompting(target.processor, model.config.model_type), "prompt": target.render(sample.prompt),
        "prompt_tokens": inputs["input_ids"].shape[1], **_placeholder(target, inputs),
        "vocabulary": model.get_output_embeddings().weight.shape[0],
        "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "kv_bytes": probe.bytes_at(limit), "free_bytes": free_bytes(target.device),
    }  # fmt: skip
    if facts["kv_bytes"] > facts["free_bytes"]:
        raise UsageError(
            f"{limit} new tokens take {facts['kv_bytes'] / MIB:,.0f} MiB of cache and "
            f"{facts['free_bytes'] / MIB:,.0f} MiB are free on {target.device}: try a smaller --max-new-tokens"
        )
    return facts


def check_model(
    name: str, suite: Suite, draft: Path | None, exit_layer: int | None, **loading: Any
) -> Iterator[tuple[str, str]]:
    """`models --check`: yields (what, finding). UsageError where the model cannot be loaded or no exit layer works."""
    target = load_target(name, **loading)
    facts = preflight(target, suite, suite.max_new_tokens)
    count = facts["layers"]
    if exit_layer is not None and not 1 <= exit_layer < count:
        raise UsageError(f"--exit-layer {exit_layer} is not within 1 .. {count - 1} of model '{name}'")
    yield from describe(facts, target.device)
    inputs = target.encode(open_image(suite.samples[0]), suite.samples[0].prompt)
    exits = [exit_layer] if exit_layer else _some_exits(count)
    refusals = []
    for layer in exits:
        try:
            difference = self_check(target.model, inputs, layer)
        except UsageError as error:
            refusals.append(error)
            yield f"exit {layer}", f"refused: {error}"
        else:
            yield f"exit {layer}", f"verification matches a full pass to {difference:.0e} of the largest logit"
    if len(refusals) == len(exits):
        raise refusals[0]
    root = draft or target.drafts
    for folder in read_manifests(root) if root else ():
        yield f"draft {folder.name}", _check_draft(folder, target, inputs)


def describe(facts: dict[str, Any], device: torch.device) -> list[tuple[str, str]]:
    """The facts in words, for a terminal."""
    caches = ", ".join(f"{count} × {kind}" for kind, count in facts["caches"].items())
    images = f"{facts['image_tokens']} × {facts['image_placeholder']!r}" if facts["image_placeholder"] else "none"
    return [
        ("class", facts["class"]),
        ("text layers", f"{facts['layers']} at {facts['layers_path']}"),
        ("cache", f"{caches}; {'can' if facts['croppable'] else 'cannot'} be rolled back"),
        ("prompting", facts["prompting"]),
        ("prompt", repr(facts["prompt"])),
        ("prompt tokens", f"{facts['prompt_tokens']}; image placeholders: {images}"),
        ("vocabulary", str(facts["vocabulary"])),
        ("memory", f"weights {facts['weights_bytes'] / MIB:,.1f} MiB, cache at the suite's lengths at most "
                   f"{facts['kv_bytes'] / MIB:,.1f} MiB; {facts['free_bytes'] / MIB:,.0f} MiB free on {device}"),
    ]  # fmt: skip


def in_one_line(facts: dict[str, Any], device: torch.device) -> str:
    """What `run` says of them."""
    return (
        f"{facts['class']}, {facts['layers']} text layers at {facts['layers_path']}, {facts['prompting']}, "
        f"cache at most {facts['kv_bytes'] / MIB:,.1f} of {facts['free_bytes'] / MIB:,.0f} MiB free on {device}"
    )


def layers_path(target: Target) -> str:
    """Where the decoder's layers are in the model, as Python would write it."""
    return next(name for name, module in target.model.named_modules() if module is target.layers)


class _Prefill:
    """Encodes the prompt, and keeps the cache."""

    def __call__(self, model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        self.cache, self.fixed = session.cache, session.fixed
        return session.sequence

    def bytes_at(self, new_tokens: int) -> int:
        """Bytes of the whole cache once `new_tokens` have followed the prompt."""
        total = 0.0
        for index, layer in enumerate(text_cache(self.cache).layers):
            size, length = _layer_bytes(layer)
            total += size * (1 + new_tokens / length) if length and index not in self.fixed else size
        if (cross := getattr(self.cache, "cross_attention_cache", None)) is not None:
            total += sum(_layer_bytes(layer)[0] for layer in cross.layers)
        return int(total)


def _layer_bytes(layer: Any) -> tuple[int, int]:
    """(bytes, tokens) that a cache layer holds now."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None:
        return 0, 0
    return keys.numel() * keys.element_size() + values.numel() * values.element_size(), keys.shape[-2]


def _check_draft(folder: Path, target: Target, inputs: dict[str, Any]) -> str:
    try:
        draft = Draft.load(folder, target.model)
        self_check(target.model, inputs, draft.exit_layer, draft)
    except UsageError as error:
        return f"refused: {error}"
    return f"fits: exit {draft.exit_layer}, {draft.manifest.head if draft.manifest else 'no'} head"


def _placeholder(target: Target, inputs: dict[str, Any]) -> dict[str, Any]:
    config = target.model.config
    token = getattr(config, "image_token_id", None)
    token = getattr(config, "image_token_index", None) if token is None else token
    count = int((inputs["input_ids"] == token).sum()) if token is not None else 0
    tokenizer = getattr(target.processor, "tokenizer", target.processor)
    return {
        "image_placeholder": tokenizer.convert_ids_to_tokens(token) if count else None, "image_tokens": count
    }  # fmt: skip


def _some_exits(layers: int) -> list[int]:
    """The first and the last exit layer, and what lies evenly between them."""
    steps = min(MOST_EXITS, layers - 1)
    return sorted({1 + round(i * (layers - 2) / max(steps - 1, 1)) for i in range(steps)})


def _count(names: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found
