"""The frozen target's view of a text: one forward pass gives every exit its inputs and the states to imitate.

States are recorded by pre-hooks: where DeepStack adds to them, `output_hidden_states` is not what arrives at a layer.
A text passes the target by one of two routes. *Packed*: prompt and answer in one pass, several texts padded to one
length. This is fast. *Forced*: the prompt by the target's own prefill, then the answer in one more pass over the KV
cache, exactly as verification runs. This is right for every family that can be decoded, but takes one text at a time.
The packed route is taken only where it gives the same states.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fastvlm_bench.drafts.heads import ImitationHead
from fastvlm_bench.engine.head_cache import like_cache, shifted
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example, pad_id, stack

AGREEMENT = 0.02  # of the largest value; in half precision, rounding differs with the length of a pass
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


@dataclass
class Span:
    """The tokens that passed the layers in one forward pass, and what was recorded of them.

    states: layer -> what arrived there, (batch, tokens, width). kwargs, args: layer -> the arguments that came with it.
    caches: layer -> an empty KV cache of the target's kinds. tops: layer -> its output, of the last `fuse` layers.
    """

    states: dict[int, Tensor] = field(default_factory=dict)
    kwargs: dict[int, dict[str, Any]] = field(default_factory=dict)
    args: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    caches: dict[int, Any] = field(default_factory=dict)
    tops: dict[int, Tensor] = field(default_factory=dict)

    def fill(self, tokens: int) -> bool:
        """Let all outputs have so many tokens, with zeros for the first ones. Returns whether any were missing.

        Last layers that take the KV of earlier ones (Gemma 4) read only the end of a prompt, which is all that counts.
        """
        missing = {layer: tokens - top.shape[1] for layer, top in self.tops.items()}
        self.tops = {layer: nn.functional.pad(top, (0, 0, missing[layer], 0)) for layer, top in self.tops.items()}
        return any(missing.values())


@dataclass
class View:
    """A batch of texts as the target saw it. told: (batch, tokens over all spans), true where a position teaches."""

    spans: list[Span]
    told: Tensor

    def last_states(self) -> Tensor:
        """The last layer's output at the n taught positions, (n, width)."""
        return self.top(0)

    def top(self, below: int) -> Tensor:
        """The output of the layer `below` places before the last one, at the taught positions, (n, width)."""
        found = torch.cat([span.tops[max(span.tops) - below] for span in self.spans], dim=1)
        return found[self.told]

    def aim(self, fuse: int) -> Tensor:
        """The mean of the last `fuse` layers' outputs, (n, width)."""
        return torch.stack([self.top(below) for below in range(fuse)]).mean(0)

    def before(self, places: int) -> tuple[Tensor, Tensor]:
        """The last layer's output `places` positions before the taught ones, and for which of these there is one.

        Returns (m, width) and (n,), of which m are true. The earliest is the last position of the prompt: no draft
        starts from one before.
        """
        found = torch.cat([span.tops[max(span.tops)] for span in self.spans], dim=1)
        roots = nn.functional.pad(found, (0, 0, places, 0))[:, : found.shape[1]]
        there = (self.told.cumsum(dim=1) >= places)[self.told]
        return roots[self.told][there], there

    def imitate(self, head: ImitationHead, exit_layer: int, unroll: int = 1) -> list[Tensor]:
        """The head's output at the taught positions, (n, width), for each of its passes.

        A head that recurs makes `unroll` passes, any other head makes one. In the first pass `previous` holds the
        target's last states; in each further pass it holds the head's output of the pass before, as within a draft.
        """
        first = max(self.spans[0].tops)
        previous = target = torch.cat([span.tops[first] for span in self.spans], dim=1) if head.recurs else None
        out = []
        for _ in range(unroll if head.recurs else 1):
            before = shifted(previous) if previous is not None else None
            states = self._pass(head, exit_layer, before)
            out.append(states[self.told])
            if target is not None:  # the prompt is never drafted, so the target's own states stay there
                previous = torch.where(self.told[..., None], states, target)
        return out

    def imitate_ahead(self, head: ImitationHead, exit_layer: int, places: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The head's output 0, 1, … positions before the taught ones, (m, width), and for which of these there is one.

        (n,), of which m are true. The earliest is the first taught position: no draft starts from one before.
        """
        states = self._pass(head, exit_layer, None)
        for far in range(places):
            moved = nn.functional.pad(states, (0, 0, far, 0))[:, : states.shape[1]]
            there = (self.told.cumsum(dim=1) > far)[self.told]
            yield moved[self.told][there], there

    def _pass(self, head: ImitationHead, exit_layer: int, previous: Tensor | None) -> Tensor:
        cache, made, start = None, [], 0
        if head.attends and len(self.spans) > 1:
            cache = copy.deepcopy(self.spans[0].caches[exit_layer])
        for span in self.spans:
            states = span.states[exit_layer]
            extra = {} if previous is None else {"previous": previous[:, start : start + states.shape[1]]}
            given = {**span.kwargs[exit_layer], "past_key_values": cache, **extra}
            made.append(head(states, *span.args[exit_layer], **given))
            start += states.shape[1]
        return torch.cat(made, dim=1)


class Observer:
    """Runs texts through a frozen target. It keeps what the exits need, and the outputs of the last `fuse` layers."""

    def __init__(self, target: Target, exits: Sequence[int], fuse: int) -> None:
        self.target, self.layers = target, decoder_layers(target.model)
        self.exits, self.fuse = sorted(set(exits)), min(fuse, len(self.layers))
        self.packs = False
        self.together: Callable[[Sequence[Example]], View] = self.packed  # or `KeptStates.view`
        self.partial = False  # the last layers leave out a part of the prompts
        # A model with random weights may answer with an image's placeholder: packed, the text would need an image more.
        config = target.model.config
        self.image_ids = {
            token
            for key in ("image_token_id", "image_token_index")
            if (token := getattr(config, key, None)) is not None
        }

    def holds_images(self, example: Example) -> bool:
        """Whether a placeholder of images is among the answer's tokens."""
        return bool(self.image_ids.intersection(example.answer))

    def choose_route(self, examples: Sequence[Example]) -> float:
        """Take the packed route if it gives the same last states as the forced route on two examples.

        Returns their largest difference as a share of the largest state, infinity where the two cannot pass together.
        """
        pair = [example for example in examples if not self.holds_images(example)][:2]
        pair = pair or list(examples[:1])
        forced = torch.cat([self.forced(example).last_states() for example in pair])
        try:
            packed = self.packed(pair).last_states()
            gap = float((packed - forced).abs().max() / forced.abs().max().clamp_min(1e-6))
        except (*FAILURES, MemoryError):
            gap = inf
        self.packs = gap <= AGREEMENT
        return gap

    def views(self, examples: Sequence[Example], size: int) -> Iterator[tuple[View, Sequence[Example]]]:
        """Yield (view, examples) of micro-batches of at most `size` examples, by the chosen route."""
        size = size if self.packs else 1
        for start in range(0, len(examples), size):
            group = examples[start : start + size]
            if self.packs and not any(map(self.holds_images, group)):
                yield self.together(group), group
            else:
                for example in group:
                    yield self.forced(example), [example]

    def padded(self, examples: Sequence[Example]) -> tuple[dict[str, Tensor], Tensor]:
        """The model inputs of each example's prompt and answer, and which positions teach, (batch, tokens).

        They are padded on the right, where causal attention keeps the padding from every token of the text.
        """
        rows, lengths = [], []
        for example in examples:
            inputs = example.inputs(self.target)
            lengths.append(inputs["input_ids"].shape[1])
            rows.append({key: _extend(key, value, inputs, example.answer) for key, value in inputs.items()})
        batch = stack(rows, pad_id(self.target))
        told = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        for row, (prompt, example) in enumerate(zip(lengths, examples, strict=True)):
            # The first answer token comes from prefill and is never drafted; after the last one there is no token left.
            told[row, prompt : prompt + example.taught] = True
        return batch, told

    @torch.no_grad()
    def packed(self, examples: Sequence[Example]) -> View:
        """The packed route: prompt and answer of all examples in one pass."""
        batch, told = self.padded(examples)
        with self.recorded() as span:
            self.target.model(**batch, use_cache=False, logits_to_keep=1)
        return View([span], told)

    @torch.no_grad()
    def forced(self, example: Example) -> View:
        """The forced route: the prompt as generation reads it, then the answer in one pass over its cache.

        ValueError for a target whose layers hand on more than one state for a token.
        """
        forced = _Forced(self, example.answer)
        unstopped(self.target.model)(
            **example.inputs(self.target), max_new_tokens=len(example.answer) + 1, do_sample=False, num_beams=1,
            custom_generate=forced,
        )  # fmt: skip
        prompt, answer = forced.spans
        if any(top.ndim != 3 for top in prompt.tops.values()):  # (rows, tokens, streams, width) or streams in front
            raise ValueError("its layers hand on several streams of states, and heads are trained on one")
        first = max(states.shape[1] for states in (*prompt.states.values(), *prompt.tops.values()))
        self.partial |= prompt.fill(first)
        told = torch.zeros(1, first + example.taught, dtype=torch.bool, device=self.target.device)
        told[0, first:] = True
        return View([prompt, answer], told)

    @contextmanager
    def recorded(self) -> Iterator[Span]:
        """Within the block, one forward pass of the target is written into the span."""
        span, hooks = Span(), []
        last = len(self.layers)

        def arrives(index: int) -> Callable[..., None]:
            def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                span.states[index] = args[0] if args else kwargs["hidden_states"]
                span.args[index] = args[1:]
                span.caches[index] = like_cache(kwargs.get("past_key_values"), index, DynamicCache())
                span.kwargs[index] = {k: v for k, v in kwargs.items() if k not in ("hidden_states", "past_key_values")}

            return keep

        def leaves(index: int) -> Callable[..., None]:
            def keep(_: nn.Module, __: Any, result: Any) -> None:
                span.tops[index] = result[0] if isinstance(result, tuple) else result

            return keep

        try:
            hooks += [self.layers[i].register_forward_pre_hook(arrives(i), with_kwargs=True) for i in self.exits]
            hooks += [self.layers[i].register_forward_hook(leaves(i)) for i in range(last - self.fuse, last)]
            yield span
        finally:
            for handle in hooks:
                handle.remove()


class _Forced:
    """A `custom_generate` that reads a given answer instead of choosing one."""

    def __init__(self, observer: Observer, answer: Sequence[int]) -> None:
        self.observer, self.answer = observer, list(answer)
        self.spans: list[Span] = []

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        with self.observer.recorded() as prompt:
            session.prefill()
        session.replace_last(self.answer[0])
        session.record_past()
        with self.observer.recorded() as rest:
            session.read(self.answer[1:])
        self.spans = [prompt, rest]
        return session.sequences


def _extend(key: str, value: Tensor, inputs: dict[str, Tensor], answer: Sequence[int]) -> Tensor:
    """Append the answer to a tensor with one value per token: ids, ones of the attention mask, zeros of token types."""
    if not isinstance(value, Tensor) or value.shape != inputs["input_ids"].shape:
        return value
    fill = {"input_ids": list(answer), "attention_mask": [1] * len(answer)}.get(key, [0] * len(answer))
    return torch.cat([value, value.new_tensor([fill])], dim=1)
