"""Checks a target before any sample is measured: what it is, what it can read, and whether it can be gated."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fastvlm_bench.checks.longest_prompt import encode, longest_prompt, positions
from fastvlm_bench.checks.self_check import Plain, damaged, loops_by_itself, one_line, said, self_check
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.manifest import read_manifests
from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.recurrent_state import can_roll_back
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import NonFiniteLogits, UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.inputs import versions
from fastvlm_bench.models.layers import vocabulary
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.memory_need import free_bytes
from fastvlm_bench.models.prompting import prompting
from fastvlm_bench.suites.suite import Sample, Suite

MIB = 1 << 20
MOST_EXITS = 4


def preflight(target: Target, suites: Sequence[Suite], limit: int | None, rows: int = 1) -> dict[str, Any]:
    """Find out facts about the target, and what each suite needs of it, by one prefill per suite.

    limit: most new tokens; None for each suite's own. rows: the batch size. In the result, `prompt`, `prompt_tokens`
    and the image placeholder are those of the first suite's first sample. `suites` has, for each suite, its longest
    prompt and `kv_bytes`: the bytes of the cache of `rows` such prompts (the longest that fits) with all new tokens,
    an upper bound where windows slide. The other `kv_bytes` is the largest of these. UsageError where the model cannot
    read a suite, where no prompt of it fits, or where the cache needs more memory than is free.
    """
    sample, model = suites[0].openings[0], target.model
    asked, caches, croppable = [], {}, False
    for suite in suites:
        most = limit or suite.max_new_tokens
        longest, fitting, inputs = longest_prompt(target, suite, most)
        cache = _prefill(target, fitting, inputs)
        caches = _count(type(layer).__name__ for layer in text_cache(cache.cache).layers)
        croppable = can_roll_back(cache.cache, target.layers)
        asked.append({"suite": suite.name, **longest, "limit": most, 
                      "kv_bytes": rows * cache.bytes_at(most * (1 + len(fitting.earlier)))})  # fmt: skip
    inputs = encode(target, sample)
    facts: dict[str, Any] = {
        "class": type(model).__name__, "layers_path": layers_path(target), "layers": len(target.layers),
        "caches": caches, "croppable": croppable,
        "prompting": prompting(target.processor, model.config.model_type),
        "prompt": target.render(sample.prompt, len(sample.image_paths)) if sample.more_images else
                  target.render(sample.prompt),
        "prompt_tokens": inputs["input_ids"].shape[1], **_placeholder(target, inputs),
        "vocabulary": vocabulary(model), "unused_weights": list(target.unused),
        "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()), "positions": positions(model),
        "suites": asked, "kv_bytes": max(each["kv_bytes"] for each in asked), "free_bytes": free_bytes(target.device),
    }  # fmt: skip
    for each in asked:
        if each["kv_bytes"] > facts["free_bytes"]:
            raise UsageError(
                f"{each['suite']}: {each['limit']} new tokens after a prompt of {each['prompt_tokens']} take "
                f"{each['kv_bytes'] / MIB:,.0f} MiB of cache and {facts['free_bytes'] / MIB:,.0f} MiB are free on "
                f"{target.device}: try a smaller --max-new-tokens" + (" or --batch-size" if rows > 1 else "")
            )
    return facts


def _prefill(target: Target, sample: Sample, inputs: dict[str, Any]) -> "_Prefill":
    probe, before = _Prefill(), versions(inputs)
    try:
        with torch.inference_mode():
            unstopped(target.model)(**inputs, max_new_tokens=2, do_sample=False, custom_generate=probe)
    except NonFiniteLogits:
        raise damaged(target.model) from None
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UsageError(
            f"{type(target.model).__name__} cannot read sample {sample.sample_id}: {one_line(error)}"
        ) from error
    if probe.cache is None:
        raise UsageError(loops_by_itself(target.model))
    after = versions(inputs)
    changed = [name for name in inputs if after[name] != before[name]]
    if changed:  # BLIP overwrites the first token
        raise UsageError(
            f"{type(target.model).__name__} writes to its own {', '.join(changed)}, so that no two methods would get "
            "the same: it cannot be measured; choose another model"
        )
    return probe


def check_model(
    name: str, suites: Sequence[Suite], draft: Path | None, exit_layer: int | None, **loading: Any
) -> Iterator[tuple[str, str]]:
    """`models --check`: yields (what, finding). UsageError where the model cannot be loaded or no exit layer works."""
    target = load_target(name, **loading)
    facts = preflight(target, suites, None)
    count = facts["layers"]
    if exit_layer is not None and not 1 <= exit_layer < count:
        raise UsageError(f"--exit-layer {exit_layer} is not within 1 .. {count - 1} of model '{name}'")
    yield from describe(facts, target.device)
    inputs = encode(target, suites[0].openings[0])
    exits = [exit_layer] if exit_layer else _some_exits(count)
    refusals, plain = [], Plain(target.model, inputs)
    for layer in exits:
        try:
            found = self_check(target.model, inputs, layer, plain=plain)
        except UsageError as error:
            refusals.append(error)
            yield f"exit {layer}", f"refused: {error}"
        else:
            yield f"exit {layer}", said(found)
    if len(refusals) == len(exits):
        raise refusals[0]
    root = draft or target.drafts
    for folder in read_manifests(root) if root else ():
        yield f"draft {folder.name}", _check_draft(folder, target, inputs, plain)


def describe(facts: dict[str, Any], device: torch.device) -> list[tuple[str, str]]:
    """The facts in words, as `models --check` prints them: (what, finding) pairs."""
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
        *([("left out", unused)] if (unused := in_short(facts["unused_weights"])) else []),
        *((f"suite {each['suite']}", in_words(each, facts["positions"])) for each in facts["suites"]),
        ("memory", f"weights {facts['weights_bytes'] / MIB:,.1f} MiB, cache at the suite's lengths at most "
                   f"{facts['kv_bytes'] / MIB:,.1f} MiB; {facts['free_bytes'] / MIB:,.0f} MiB free on {device}"),
    ]  # fmt: skip


def in_words(asked: dict[str, Any], positions: int | None) -> str:
    """What one suite needs of the model, in words. asked: its entry of `suites`."""
    earlier = asked.get("earlier_tokens", 0)
    words = (
        f"longest prompt {asked['prompt_tokens']} tokens"
        + (f", at most {earlier} of them earlier answers," if earlier else "")
        + f" + at most {asked['limit']} new; "
        f"cache at most {asked['kv_bytes'] / MIB:,.1f} MiB"
    )
    if asked["fits"]:
        return words
    fails = f"sample {asked['sample_id']} {'may' if earlier else 'will'} fail"
    return f"{words}; {fails}: the model has {positions} positions"


def in_lines(facts: dict[str, Any], device: torch.device) -> Iterator[str]:
    """The facts in lines, as `run` prints them: one for the model, then one for each suite."""
    yield (
        f"{facts['class']}, {facts['layers']} text layers at {facts['layers_path']}, {facts['prompting']}, "
        f"cache at most {facts['kv_bytes'] / MIB:,.1f} of {facts['free_bytes'] / MIB:,.0f} MiB free on {device}"
    )
    if unused := in_short(facts["unused_weights"]):
        yield unused
    for asked in facts["suites"]:
        yield f"{asked['suite']}, {in_words(asked, facts['positions'])}"


def in_short(keys: Sequence[str]) -> str:
    """What of the checkpoint's files the model does not use, in words; "" for nothing."""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{len(keys)} weights of the files are not used: {', '.join(keys[:3])}{more}" if keys else ""


def layers_path(target: Target) -> str:
    """Where the decoder's layers are in the model, as a dotted name."""
    return next(name for name, module in target.model.named_modules() if module is target.layers)


class _Prefill:
    """A `custom_generate` that runs only the prefill and keeps the cache; None where it was not called."""

    cache: Any = None

    def __call__(self, model: Any, input_ids: torch.Tensor, **prepared: Any) -> torch.Tensor:
        if len(input_ids) != 1:
            raise UsageError(
                f"{type(model).__name__} makes {len(input_ids)} sequences of one image and text, one for each tile "
                "that its processor cuts the image into: turn this off in the checkpoint's preprocessor_config.json "
                "(do_image_splitting, crop_to_patches, do_pan_and_scan or the like), or choose another model"
            )
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        self.cache, self.fixed = session.cache, session.fixed
        return session.sequences

    def bytes_at(self, new_tokens: int) -> int:
        """Bytes of the whole cache once `new_tokens` have followed the prompt."""
        total = 0.0
        for index, layer in enumerate(text_cache(self.cache).layers):
            size, length = _layer_bytes(layer)
            total += size * (1 + new_tokens / length) if length and index not in self.fixed else size
            total += _state_bytes(layer)
        if (cross := getattr(self.cache, "cross_attention_cache", None)) is not None:
            total += sum(_layer_bytes(layer)[0] for layer in cross.layers)
        return int(total)


def _layer_bytes(layer: Any) -> tuple[int, int]:
    """(bytes, tokens) that a cache layer holds now."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None:
        return 0, 0
    return keys.numel() * keys.element_size() + values.numel() * values.element_size(), keys.shape[-2]


def _state_bytes(layer: Any) -> int:
    """Bytes of the states of convolutions and recurrent layers, which do not grow with the text."""
    parts = (getattr(layer, name, {}) for name in ("conv_states", "recurrent_states"))
    return sum(state.nbytes for part in parts for state in part.values() if state is not None)


def _check_draft(folder: Path, target: Target, inputs: dict[str, Any], plain: Plain) -> str:
    try:
        draft = Draft.load(folder, target.model)
        if draft.manifest and draft.manifest.at_the_end:
            return f"fits: {draft.manifest.head} heads {draft.manifest.place}"
        self_check(target.model, inputs, draft.exit_layer, draft, plain)
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
    """The first and the last exit layer and some evenly spaced between them, at most MOST_EXITS in all."""
    steps = min(MOST_EXITS, layers - 1)
    return sorted({1 + round(i * (layers - 2) / max(steps - 1, 1)) for i in range(steps)})


def _count(names: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found
