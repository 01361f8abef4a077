"""One generation's state: token ids, transformers' keyword arguments and the KV cache. One sequence.

Everything that `generate` prepared (positions, masks, encoded images, processors) passes through here unchanged, so
methods need no knowledge of the architecture.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria
from transformers.modeling_outputs import BaseModelOutputWithPast

from fastvlm_bench.engine.accept import accept_greedy, accept_sampled, draw
from fastvlm_bench.engine.recurrent_state import keep_passes
from fastvlm_bench.errors import NonFiniteLogits, UsageError
from fastvlm_bench.machine.clock import Clock

PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
"""Fields of a configuration that name the tokens which stand for pictures."""


class Session:
    """Feeds tokens to the model and keeps the books that `transformers` would keep."""

    one_row = True  # BatchSession takes several

    def __init__(
        self, model: Any, input_ids: Tensor, *, logits_processor: Any, stopping_criteria: Any, generation_config: Any,
        streamer: Any = None, clock: Clock, **model_kwargs: Any,
    ) -> None:  # fmt: skip
        model_kwargs.pop("synced_gpus", None)
        if generation_config.num_beams > 1:
            raise UsageError("beams are not supported: pass num_beams=1")
        if self.one_row and input_ids.shape[0] != 1:
            raise UsageError(f"batch size {input_ids.shape[0]}: this method decodes one sequence at a time")
        self.model, self.config, self.clock, self.streamer = model, generation_config, clock, streamer
        self.prompt_length = input_ids.shape[1]
        # One buffer for the whole output: growing by concatenation would cost a copy for each token.
        self._ids = input_ids.new_zeros(len(input_ids), max(generation_config.max_length, self.prompt_length) + 1)
        self._ids[:, : self.prompt_length] = input_ids
        self.length = self.prompt_length
        self.kwargs = model_kwargs
        self.processors = logits_processor  # temperature, top-k and top-p among them where `generate` samples
        self.samples = bool(generation_config.do_sample)
        self._drawn_from: list[Tensor] = []
        self.stop = ""
        # Layers whose KV is the image's and does not grow with the text (Mllama): never rolled back.
        text = model.config.get_text_config(decoder=True)
        self.fixed = frozenset(getattr(text, "cross_attention_layers", None) or ())
        self.placeholders = placeholders(model)
        eos = generation_config.eos_token_id
        self.end_tokens = frozenset([eos] if isinstance(eos, int) else eos or [])
        # The two usual criteria are checked on Python numbers; any other one is asked token by token.
        self._criteria = [c for c in stopping_criteria if not isinstance(c, EosTokenCriteria | MaxLengthCriteria)]

    @property
    def remaining(self) -> int:
        """How many more tokens may be emitted."""
        return int(self.config.max_length) - self.length

    @property
    def new_tokens(self) -> list[int]:
        return self._ids[0, self.prompt_length : self.length].tolist()

    @property
    def sequence(self) -> Tensor:
        """(1, prompt + new tokens): what `generate` returns."""
        return self._ids[:, : self.length].clone()

    @property
    def cache(self) -> Any:
        return self.kwargs["past_key_values"]

    def is_eos(self, token: int) -> bool:
        return token in self.end_tokens

    def prefill(self) -> int:
        """Encode the image, run the prompt through all layers, emit the first token and return it."""
        outputs = self.model._prefill(self._ids[:, : self.length], self.config, self.kwargs)
        self.advance_kwargs(outputs, self.kwargs, 1)
        (token,) = self.choose(outputs.logits[:, -1:], self.length)
        self.emit([token])
        return token

    def forward(self, count: int, ahead: list[int], kwargs: dict[str, Any]) -> Any:
        """Run the last `count` tokens of output + `ahead`. Returns the model's output, logits (1, count, vocab).

        kwargs: the bookkeeping that describes exactly this many tokens (`self.kwargs`, or a copy advanced by drafts).
        """
        end = self.length + len(ahead)
        if ahead:
            self._ids[0, self.length : end] = torch.tensor(ahead, device=self._ids.device)
        if "logits_to_keep" in kwargs:  # `generate` puts it there where the model takes it
            kwargs = {**kwargs, "logits_to_keep": count}
        inputs = self.model.prepare_inputs_for_generation(self._ids[:, :end], next_sequence_length=count, **kwargs)
        return self.model(**inputs, return_dict=True)

    def advance_kwargs(self, outputs: Any, kwargs: dict[str, Any], count: int) -> None:
        """Let `transformers` account for `count` new tokens, in place."""
        self.model._update_model_kwargs_for_generation(
            outputs, kwargs, is_encoder_decoder=self.model.config.is_encoder_decoder, num_new_tokens=count
        )

    def choose(self, logits: Tensor, prefix_length: int) -> list[int]:
        """The token at each position of `logits`, (1, k, vocab): the largest after the user's logits processors, or
        one drawn by their probabilities where `generate` samples (with torch's own generator, as it does).

        Position i follows the first `prefix_length + i` ids, so that a repetition penalty, say, sees the right
        prefix on draft and target alike. Ties go to the lowest id, for every method. Raises NonFiniteLogits.
        """
        if self.samples:
            return [draw(row) for row in self.probabilities(logits, prefix_length)]
        top, ids = self.processed(logits, prefix_length).max(dim=-1)
        if not all(map(math.isfinite, top.tolist())):  # `max` and `argmax` alike give the index of a NaN
            raise NonFiniteLogits(f"the largest logit is not finite, {prefix_length - self.prompt_length} tokens on")
        found: list[int] = ids.tolist()
        return found

    def draft(self, logits: Tensor, prefix_length: int) -> int:
        """`choose` for the next drafted token; where that is drawn, its distribution is kept for `accept`."""
        if not self.samples:
            return self.choose(logits, prefix_length)[0]
        (row,) = self.probabilities(logits, prefix_length)
        if self.placeholders:  # left out before the draw: to drop one when it is drawn would favour other tokens
            kept = row.clone()
            kept[list(self.placeholders)] = 0
            row = kept / kept.sum() if bool(kept.sum() > 0) else row
        self._drawn_from.append(row)
        return draw(row)

    def accept(self, drafted: list[int], logits: Tensor) -> tuple[int, list[int]]:
        """How many drafted tokens stand, and the token that follows them; none follows a last one without logits.

        logits: the target's, (1, k, vocab), the first of them after the output so far.
        """
        if self.samples:
            p, q = self.probabilities(logits, self.length), self._drawn_from
            self._drawn_from = []
            accepted, token = accept_sampled(drafted, torch.stack(q) if q else p[:0], p)
            return accepted, [] if token is None else [token]
        predicted = self.choose(logits, self.length)
        accepted = accept_greedy(drafted, predicted)
        return accepted, predicted[accepted : accepted + 1]

    def probabilities(self, logits: Tensor, prefix_length: int) -> Tensor:
        """(k, vocab): what each position of `logits`, (1, k, vocab), is drawn from, after the logits processors."""
        rows = self.processed(logits, prefix_length).float()
        if not bool(rows.amax(dim=-1).isfinite().all()):  # on a GPU drawing from NaN would poison the process
            raise NonFiniteLogits(f"the largest logit is not finite, {prefix_length - self.prompt_length} tokens on")
        return torch.softmax(rows, dim=-1)

    def processed(self, logits: Tensor, prefix_length: int) -> Tensor:
        """(k, vocab): `logits`, (1, k, vocab), after the user's processors, each at its own prefix as in `choose`."""
        if not len(self.processors):
            return logits[0]
        return torch.cat([
            self.processors(self._ids[:, : prefix_length + i], logits[:, i].to(torch.float32, copy=True))
            for i in range(logits.shape[1])
        ])  # fmt: skip

    def emit(self, tokens: list[int]) -> int:
        """Append tokens up to the first EOS or the limit; returns how many were taken. Sets `stop` at the end."""
        taken = 0
        for token in tokens:
            self._ids[0, self.length] = token
            self.length += 1
            taken += 1
            if token in self.end_tokens:
                self.stop = "eos"
            elif self.remaining <= 0:
                self.stop = "length"
            elif self._criteria and any(bool(c(self._ids[:, : self.length], None)) for c in self._criteria):
                self.stop = "criteria"
            if self.stop:
                break
        if self.streamer is not None:
            self.streamer.put(self._ids[0, self.length - taken : self.length].cpu())
            if self.stop:
                self.streamer.end()
        return taken

    def read(self, tokens: list[int]) -> Any:
        """One pass over the last token of output and all of `tokens` but their last: what the target says to each.

        Returns the model's output, logits (1, len(tokens), vocab). The session is of no use afterwards.
        """
        return self.forward_block(len(tokens), tokens[:-1])

    def forward_block(self, count: int, ahead: list[int]) -> Any:
        """As `forward`, for tokens that are given: `self.kwargs`, which describe one, come to describe all."""
        if count > 1:
            self.advance_kwargs(BaseModelOutputWithPast(past_key_values=self.cache), self.kwargs, count - 1)
        return self.forward(count, ahead, self.kwargs)

    def replace_last(self, token: int) -> None:
        """Put another token in the place of the last one emitted: training reads texts that are not the model's own."""
        self._ids[0, self.length - 1] = token

    def record_past(self, head_cache: Any = None) -> None:
        """Let sliding windows, convolutions and recurrent states keep what they would drop, to be rolled back."""
        if hasattr(self.cache, "activate_past_recording"):
            self.cache.activate_past_recording()
        for cache in (self.cache, head_cache):
            keep_passes(cache)

    def roll_back(self, count: int) -> None:
        """Forget the last `count` tokens in every layer that grew with them; 0 only lets sliding windows shrink."""
        cache = text_cache(self.cache)
        for index, layer in enumerate(cache.layers):
            if index not in self.fixed:
                layer.crop(-count)

    def cache_view(self, exit_layer: int, drafted: int) -> Any:
        """The cache as verification must see it: every layer as long as it was before `drafted` tokens passed.

        Masks and positions are sized from the first layers, which have grown while drafting. In the view each is
        a layer of its kind from the exit on, or, where there is none, a copy cut back; skipped layers touch neither.
        """
        layers = text_cache(self.cache).layers
        kinds: dict[Any, Any] = {}
        for index in range(len(layers) - 1, exit_layer - 1, -1):
            kinds[self._kind(index, layers)] = layers[index]
        view = copy.copy(self.cache)
        below = [
            kinds.get(self._kind(index, layers)) or self._cut(index, layers, drafted) for index in range(exit_layer)
        ]
        if view is not (text := text_cache(view)):
            text = view.self_attention_cache = copy.copy(text)
        text.layers = below + layers[exit_layer:]
        return view

    def kind(self, index: int) -> tuple[type, bool, int | None]:
        """What tells one layer's cache, and so its mask, from another's."""
        return self._kind(index, text_cache(self.cache).layers)

    def _kind(self, index: int, layers: list[Any]) -> tuple[type, bool, int | None]:
        return type(layers[index]), index in self.fixed, getattr(layers[index], "sliding_window", None)

    def _cut(self, index: int, layers: list[Any], drafted: int) -> Any:
        layer = layers[index]
        if index in self.fixed or not hasattr(layer, "keys") or layer.keys is None:
            return layer  # neither masks nor positions are sized from it
        layer = copy.copy(layer)
        if hasattr(layer, "conv_states"):  # one that attends and convolves (Inkling): `crop` changes this in place
            layer.conv_states = dict(layer.conv_states)
        layer.crop(-drafted)
        return layer


def text_cache(cache: Any) -> Any:
    """The part of a cache that grows with the text: an encoder-decoder's cross-attention does not."""
    return getattr(cache, "self_attention_cache", cache)


def placeholders(model: Any) -> frozenset[int]:
    """The token ids that stand for images or video in a prompt; as drafts they are never right."""
    return frozenset(token for name in PLACEHOLDERS if isinstance(token := getattr(model.config, name, None), int))
