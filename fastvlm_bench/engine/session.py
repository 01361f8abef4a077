"""The state of one generation: token ids, transformers' keyword arguments and the KV cache.

Everything that `generate` prepared (positions, masks, encoded images, processors) passes through here unchanged, so
methods need no knowledge of the architecture. A `Session` has one row, that is one sequence; a `BatchSession` has
several. Methods use both in the same way: tokens are always one list per row.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, QuantizedLayer
from transformers.generation.utils import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutputWithPast

from fastvlm_bench.engine.cache_view import Kind, cache_view, kind, text_cache
from fastvlm_bench.engine.choosing import Choosing
from fastvlm_bench.engine.layer_gate import LayerGate
from fastvlm_bench.engine.processors import check_processors
from fastvlm_bench.engine.recurrent_state import keep_passes
from fastvlm_bench.engine.rows import Row, Tokens
from fastvlm_bench.engine.stopping import further
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import vocabulary

UNKEPT = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
"""Settings of `generate` that ask for something of each token's pass."""
PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
"""Fields of a model's configuration that hold the id of a token which stands for an image or a video."""


class Session(Choosing):
    """Feeds tokens to the model and does the bookkeeping that `transformers` would do, for a single row.

    rows: those that are still being decoded, in the order of all tensors. ended: those that have stopped. gate: the
    layer gate of a method that drafts, whose head is rolled back with the target; None for other methods.
    unread: how many tokens at the end of the output no pass has read: one, but for a drafter that lags (following.py).
    """

    unread = 1

    def __init__(
        self, model: Any, input_ids: Tensor, gate: LayerGate | None = None, *, logits_processor: Any,
        stopping_criteria: Any, generation_config: Any, streamer: Any = None, clock: Clock, **model_kwargs: Any,
    ) -> None:  # fmt: skip
        model_kwargs.pop("synced_gpus", None)
        if generation_config.num_beams > 1:
            raise UsageError("beams are not supported: pass num_beams=1")
        if generation_config.use_cache is False:
            raise UsageError("use_cache=False is not supported: every method goes on from the KV of what it has read; "
                             "leave it out (in generation_config.json, too)")  # fmt: skip
        for asked in UNKEPT:
            if getattr(generation_config, asked, None):
                raise UsageError(f"{asked} is not supported: the passes of drafts would be among them; leave it out")
        if not self.takes_several and input_ids.shape[0] != 1:
            raise UsageError(f"batch size {input_ids.shape[0]}: this method decodes one sequence at a time")
        self.model, self.config, self.clock, self.streamer, self._gate = model, generation_config, clock, streamer, gate
        self.prompt_length = input_ids.shape[1]
        self.rows, self.ended = [Row(0, self.prompt_length)], list[Row]()
        # One buffer for the whole output: to grow it by concatenation would copy it for each token.
        self._ids = input_ids.new_zeros(len(input_ids), max(generation_config.max_length, self.prompt_length) + 1)
        self._ids[:, : self.prompt_length] = input_ids
        self.length = self.prompt_length
        self.kwargs = model_kwargs
        if logits_processor:
            check_processors(logits_processor, input_ids, vocabulary(model))
        if streamer is not None:
            streamer.put(input_ids.cpu())
        self.processors = logits_processor  # temperature, top-k and top-p among them where `generate` samples
        self.samples = bool(generation_config.do_sample)
        # On a CPU to read is not to wait.
        self.defers = self.device.type != "cpu" and not self.takes_several and not self.samples
        self._ahead, self._ahead_of = list[int](), 0  # tokens in `_ids` after an output of this length, if known
        self._drawn_from: list[Tensor] = []
        self.recorded: Any = None  # runs the passes, once the engine `graphs` has taken over
        self._texts: list[list[int]] | None = None
        self._records_past = False
        # Layers whose KV is the image's and does not grow with the text (Mllama): never rolled back.
        text = model.config.get_text_config(decoder=True)
        self.fixed = frozenset(getattr(text, "cross_attention_layers", None) or ())
        self.placeholders = placeholders(model)
        eos = generation_config.eos_token_id
        self.end_tokens = frozenset([eos] if isinstance(eos, int) else eos or [])
        # EOS and the token limit are checked on Python numbers; every other criterion is called token by token.
        self._criteria = further(stopping_criteria)

    @property
    def gate(self) -> LayerGate:
        """The layer gate of a method that drafts. AttributeError for any other method."""
        if self._gate is None:
            raise AttributeError("this session was opened without a gate")
        return self._gate

    @property
    def device(self) -> torch.device:
        return self._ids.device

    @property
    def remaining(self) -> int:
        """How many more tokens may be emitted."""
        return int(self.config.max_length) - self.length

    def remaining_of(self, row: Row) -> int:
        """How many more tokens this row may emit."""
        return self.remaining

    @property
    def new_tokens(self) -> list[int]:
        """The tokens that the only row has emitted."""
        return self._ids[0, self.prompt_length : self.length].tolist()

    @property
    def texts(self) -> list[list[int]]:
        """For each of `rows` its prompt, without padding, and its output. Prompts are fetched from the device once."""
        if self._texts is None:
            self._texts = self._ids[:, : self.prompt_length].tolist()
        return [[*self._texts[row.place][self.prompt_length - row.prompt_length :], *row.tokens] for row in self.rows]

    @property
    def sequences(self) -> Tensor:
        """What `generate` returns, (rows, prompt + new tokens)."""
        return self._ids[:, : self.length].clone()

    @property
    def returned(self) -> Any:
        """What `generate` returns: the sequences, or transformers' output with them and the KV of all but the last.

        The cache is left out where it cannot be cut back to these tokens: of several rows, of layers with states, and
        of layers that passes leave out.
        """
        if not self.config.return_dict_in_generate:
            return self.sequences
        layers = [] if self.takes_several else list(text_cache(self.cache).layers)
        plain = bool(layers) and not self.fixed and all(type(layer) is DynamicLayer for layer in layers)
        beyond = [layer.get_seq_length() - (self.length - 1) for layer in layers] if plain else [-1]
        plain = min(beyond) >= 0  # layers that some passes leave out have read less
        if plain:
            for layer, count in zip(layers, beyond, strict=True):  # an EOS may end the output within a round
                if count:
                    layer.crop(-count)
        coded = self.model.config.is_encoder_decoder
        output = GenerateEncoderDecoderOutput if coded else GenerateDecoderOnlyOutput
        return output(sequences=self.sequences, past_key_values=self.cache if plain and not coded else None)

    @property
    def cache(self) -> Any:
        return self.kwargs["past_key_values"]

    def prefill(self) -> float:
        """Encode the image, run the prompt through all layers and emit the first token.

        Returns the clock (s) once that token was chosen and known on the host. What follows is part of decoding.
        """
        outputs = self.read_prompt()
        first = self.choose(outputs.logits[:, -1:])
        known = self.clock.now()
        self.emit(first)
        self.keep(outputs, first, 1)
        return known

    def read_prompt(self) -> Any:
        """The first part of `prefill`: one pass over the prompt. Returns the model's output; nothing is chosen yet."""
        return self.model._prefill(self._ids[:, : self.length], self.config, self.kwargs)

    def forward(self, count: int, ahead: Tokens, kwargs: dict[str, Any], logits: int | None = None) -> Any:
        """Run one pass over the last `count` tokens of output + `ahead`.

        ahead: equally many tokens of each row, such as drafts, that follow its output; may be empty. kwargs: keyword
        arguments that account for exactly these tokens: `self.kwargs`, or a copy that `advance_kwargs` took past the
        drafts. logits: for how many of the last tokens logits are needed; all by default. A model that cannot leave
        the others out gives more. Returns the model's output, with logits (rows, count, vocab).
        """
        if self.recorded is not None:
            recorded = self.recorded
            if (outputs := recorded.forward(count, ahead, logits or count)) is not None:
                return outputs
            recorded.hand_back(kwargs, ahead)
        return self.model(**self.inputs_of(count, ahead, kwargs, logits), return_dict=True)

    def inputs_of(self, count: int, ahead: Tokens, kwargs: dict[str, Any], logits: int | None = None) -> dict[str, Any]:
        """What `forward` gives to the model, as `transformers` prepares it."""
        end = self.write_ahead(ahead[0] if ahead else ())
        if "logits_to_keep" in kwargs:  # `generate` sets it for models that take it
            kwargs = {**kwargs, "logits_to_keep": logits or count}
        inputs: dict[str, Any] = self.model.prepare_inputs_for_generation(
            self._ids[:, :end], next_sequence_length=count, **kwargs
        )
        return inputs

    def advance_kwargs(self, outputs: Any, kwargs: dict[str, Any], count: int) -> None:
        """Let `transformers` update `kwargs`, in place, for `count` new tokens. With 0 nothing changes."""
        # With 0 transformers would append the types of all tokens once more. Recorded passes know where they start.
        if not count or self.recorded is not None:
            return
        self.model._update_model_kwargs_for_generation(
            outputs, kwargs, is_encoder_decoder=self.model.config.is_encoder_decoder, num_new_tokens=count
        )

    def emit(self, tokens: Tokens) -> list[int]:
        """Append each row's tokens, up to its EOS, the limit or a stopping criterion, which sets its `stop`.

        Returns how many tokens each row took.
        """
        (row,), (new,), taken = self.rows, tokens, 0
        known, self._ahead = self._written(new), []
        for token in new:
            if taken >= known:
                self._ids[0, self.length] = token
            row.tokens.append(token)
            self.length += 1
            taken += 1
            if token in self.end_tokens:
                row.stop = "eos"
            elif self.remaining <= 0:
                row.stop = "length"
            elif self._criteria and any(bool(c(self._ids[:, : self.length], None)) for c in self._criteria):
                row.stop = "criteria"
            if row.stop:
                break
        if self.streamer is not None:
            self.streamer.put(self._ids[0, self.length - taken : self.length].cpu())
            if row.stop:
                self.streamer.end()
        return [taken]

    def keep(self, outputs: Any, tokens: Tokens, ran: int) -> None:
        """Finish a pass over `ran` tokens: each row keeps the first `len(tokens[row])` of them and forgets the rest.

        Rejected tokens leave the KV cache and the head. Rows that have stopped move from `rows` to `ended`.
        What the passes have not read of `tokens` is `unread` afterwards: the last one, or more where a drafter lags.
        """
        beyond = ran - self.unread  # how many tokens after the output so far were read
        unread = max(1, len(tokens[0]) - beyond)
        rejected = beyond + unread - len(tokens[0])
        self.unread = unread
        if self._records_past:
            self.roll_back(rejected)
            if self._gate is not None:
                self._gate.roll_back_head(rejected)
        self.finish(outputs, ran - rejected)

    def finish(self, outputs: Any, kept: int) -> None:
        """The end of `keep`, once caches hold what stays: `kept` tokens of the only row's latest passes."""
        self.advance_kwargs(outputs, self.kwargs, kept)
        if self.rows[0].stop:
            self.rows, self.ended = [], self.rows

    def read(self, tokens: list[int]) -> Any:
        """Run the target over the last emitted token and all of `tokens` but the last, in one pass.

        Returns the model's output, with logits (1, len(tokens), vocab): the target's own prediction for each of
        `tokens`. Afterwards the session cannot go on.
        """
        return self.forward_block([tokens[:-1]])

    def forward_block(self, ahead: Tokens) -> Any:
        """As `forward`, over the last emitted token and all of `ahead`. `kwargs` stay those of the next token."""
        count = len(ahead[0]) if ahead else 0
        return self.forward(count + 1, ahead, self.kwargs_ahead(count))

    def kwargs_ahead(self, count: int) -> dict[str, Any]:
        """A copy of `kwargs` that accounts for `count` more tokens than the next one."""
        kwargs = dict(self.kwargs)
        self.advance_kwargs(BaseModelOutputWithPast(past_key_values=self.cache), kwargs, count)
        return kwargs

    def replace_last(self, token: int) -> None:
        """Replace the last emitted token, so that a given text can be read that is not the model's own answer."""
        self._ids[0, self.length - 1] = token

    def record_past(self) -> None:
        """Let sliding windows, convolutions and recurrent states keep what they would drop, for later rollbacks."""
        self._records_past = True
        for layer in text_cache(self.cache).layers:
            if not hasattr(layer, "crop") or isinstance(layer, QuantizedLayer):
                raise UsageError(f"rejected drafts cannot be taken out of a cache of {type(layer).__name__}s: leave "
                                 "cache_implementation out, or decode with standard")  # fmt: skip
        if hasattr(self.cache, "activate_past_recording"):
            self.cache.activate_past_recording()
        for cache in (self.cache, self._gate.head_cache if self._gate is not None else None):
            keep_passes(cache)

    def roll_back(self, count: int) -> None:
        """Forget the last `count` tokens in every layer that grew with them. With 0, only recorded past is dropped."""
        for index, layer in enumerate(text_cache(self.cache).layers):
            if index not in self.fixed:
                layer.crop(-count)

    def draft_view(self) -> Any:
        """The cache as drafting behind the gate must see it."""
        return self.cache if self.recorded is not None else self.gate.draft_view(self.cache)

    def cache_view(self, exit_layer: int, drafted: int) -> Any:
        """The cache as verification must see it after `drafted` tokens have passed the layers below the exit."""
        return self.cache if self.recorded is not None else cache_view(self.cache, exit_layer, drafted, self.fixed)

    def kind(self, index: int) -> Kind:
        """The kind of one layer's cache. Layers of one kind share a mask."""
        return kind(text_cache(self.cache).layers, index, self.fixed)


def placeholders(model: Any) -> frozenset[int]:
    """The token ids that stand for images or video in a prompt. They are never drafted."""
    return frozenset(token for name in PLACEHOLDERS if isinstance(token := getattr(model.config, name, None), int))
