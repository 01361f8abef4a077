"""The state of a batch while it is decoded: left-padded token ids, transformers' keyword arguments and the KV cache.

Rows accept different numbers of tokens and end at different times. `emit` appends to each row. `keep` then aligns the
caches and the bookkeeping, and drops finished rows, so that no pass is spent on them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation.utils import MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL

from fastvlm_bench.engine.batch_cache import Move, check_kinds, move_layer, select_rows
from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.choosing import NOT_FINITE, finite_argmax
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.processors import at_each_place
from fastvlm_bench.engine.rows import Row, Tokens
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import NonFiniteLogits, UsageError

ALONG_TEXT = ("position_ids", "decoder_position_ids", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")


class BatchSession(Session):
    """A `Session` of several rows, with prompts padded on the left. Greedy decoding only."""

    takes_several = True

    def __init__(self, model: Any, input_ids: Tensor, gate: LayerGate | None = None, **given: Any) -> None:
        super().__init__(model, input_ids, gate, **given)
        if self.samples:
            raise UsageError("a batch is decoded greedily: pass do_sample=False, or decode one at a time")
        if self.streamer is not None:
            raise UsageError("a streamer takes one sequence: leave it out, or decode one at a time")
        self.limit = int(self.config.max_length) - self.prompt_length
        self._ids = input_ids
        self._mask_key = "decoder_attention_mask" if model.config.is_encoder_decoder else "attention_mask"
        mask = self.kwargs.pop(self._mask_key, None)
        self._mask = torch.ones_like(input_ids) if mask is None else mask.to(input_ids.device)
        self._check_padding()
        lengths = self._mask.sum(dim=1).tolist()
        self.rows = [Row(place, length) for place, length in enumerate(lengths)]
        self._prompts = input_ids

    def _check_padding(self) -> None:
        if not bool((self._mask.diff(dim=1) >= 0).all()) or not bool(self._mask[:, -1].all()):
            raise ValueError("the prompts of a batch must be padded on the left")

    @property
    def device(self) -> torch.device:
        return self._ids.device

    @property
    def width(self) -> int:
        """Columns of ids, padding included."""
        return int(self._ids.shape[1])

    @property
    def remaining(self) -> int:
        """How many more tokens may be emitted by the row that may emit the most."""
        return max(self.remaining_of(row) for row in self.rows)

    def remaining_of(self, row: Row) -> int:
        return self.limit - len(row.tokens)

    def read_prompt(self) -> Any:
        """As in `Session`: encode the images and run the prompts through all layers."""
        padded = {self._mask_key: self._mask} if self._padded else {}
        prepared = {**self.kwargs, **padded}
        outputs = self.model._prefill(self._ids, self.config, prepared)
        self.kwargs = {k: v for k, v in prepared.items() if k not in MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL}
        self.kwargs.pop(self._mask_key, None)
        if (seen := self.kwargs.get("cross_attention_mask")) is not None:
            self.kwargs["cross_attention_mask"] = seen[:, -1:]  # only the last token's part is used again
        check_kinds(text_cache(outputs.past_key_values), self.model)
        self.kwargs["past_key_values"] = outputs.past_key_values
        return outputs

    @property
    def _padded(self) -> bool:
        """Whether any row has padding. Without padding no mask is passed to the model, as for a single sequence."""
        return any(row.length < self.width for row in self.rows)

    def forward(self, count: int, ahead: Tokens, kwargs: dict[str, Any], logits: int | None = None) -> Any:
        """As in `Session`: run one pass over the last `count` columns of output + `ahead`."""
        if (recorded := self.recorded) is not None:
            if (outputs := recorded.forward(count, ahead, logits or count)) is not None:
                return outputs
            recorded.hand_back(kwargs, ahead)
        ids = self.ids_with(ahead)
        if self._padded:
            added = ids.shape[1] - self.width
            mask = torch.cat([self._mask, self._mask.new_ones(len(ids), added)], dim=1) if added else self._mask
            kwargs = {**kwargs, self._mask_key: mask}
        if "logits_to_keep" in kwargs:
            kwargs = {**kwargs, "logits_to_keep": logits or count}
        inputs = self.model.prepare_inputs_for_generation(ids, next_sequence_length=count, **kwargs)
        return self.model(**inputs, return_dict=True)

    def ids_with(self, ahead: Tokens) -> Tensor:
        """(rows, columns): the ids of the rows that go on, padded on the left, and `ahead` after them."""
        columns = self._columns(ahead)
        return self._ids if columns is None else torch.cat([self._ids, columns], dim=1)

    def _columns(self, ahead: Tokens) -> Tensor | None:
        """`ahead` as a tensor, (rows, k), on the model's device; None if it has no column."""
        return self._ids.new_tensor(ahead) if ahead and ahead[0] else None

    def choose(self, logits: Tensor, ahead: Tokens = (), first: int = 0) -> list[list[int]]:
        """The argmax at each position, (rows, k, vocab) -> rows of k ids, after the user's logits processors.

        Position i follows the row's ids and the first `first + i` tokens of `ahead`. Raises NonFiniteLogits.
        """
        if len(self.processors):
            columns = self._columns(ahead)
            logits = torch.stack(
                [self._row_processed(i, logits[i : i + 1], columns, first) for i in range(len(self.rows))]
            )
        chosen: list[list[int]] = finite_argmax(logits).tolist()
        for row, tokens in zip(self.rows, chosen, strict=True):
            if NOT_FINITE in tokens:
                raise NonFiniteLogits(
                    f"the largest logit of row {row.place} is not finite, {len(row.tokens)} tokens on"
                )
        return chosen

    def _row_processed(self, index: int, logits: Tensor, ahead: Tensor | None, first: int) -> Tensor:
        """One row's logits, (1, k, vocab) -> (k, vocab), each position processed with its own prefix."""
        ids = self._prefix(self.rows[index])
        start = ids.shape[1] + first
        if ahead is not None:
            ids = torch.cat([ids, ahead[index : index + 1]], dim=1)
        return at_each_place(self.processors, ids, start, logits)

    def _prefix(self, row: Row) -> Tensor:
        """The row's ids as its logits processors must see them, (1, padded prompt + new tokens).

        They have the padded prompt's length, from which `generate` made the processors count. But they are padded
        with the row's own first id: a repetition penalty must not see a pad token, which the row alone would not have.
        """
        prompt = self._prompts[row.place].clone()
        prompt[: self.prompt_length - row.prompt_length] = prompt[self.prompt_length - row.prompt_length]
        return torch.cat([prompt, prompt.new_tensor(row.tokens)])[None]

    def emit(self, tokens: Tokens) -> list[int]:
        """Append to each row up to its first EOS or the limit, and set its `stop` there. Returns how many each took."""
        return [self._emit_row(row, new) for row, new in zip(self.rows, tokens, strict=True)]

    def _emit_row(self, row: Row, tokens: Sequence[int]) -> int:
        taken = 0
        for token in tokens:
            row.tokens.append(token)
            taken += 1
            if token in self.end_tokens:
                row.stop = "eos"
            elif self.remaining_of(row) <= 0:
                row.stop = "length"
            elif self._criteria and any(bool(c(self._prefix(row), None)) for c in self._criteria):
                row.stop = "criteria"
            if row.stop:
                break
        return taken

    def keep(self, outputs: Any, tokens: Tokens, ran: int) -> None:
        """As in `Session`: row i keeps the first len(tokens[i]) of the `ran` columns.

        Afterwards every row ends in the last column, and the longest row has no padding. All rows have equally many
        unread tokens: those of the row whose passes have read the least, so that others read some of theirs again.
        """
        staying = [index for index, row in enumerate(self.rows) if not row.stop]
        self.ended += [row for row in self.rows if row.stop]
        self.rows = [row for row in self.rows if not row.stop]
        if not staying:
            return
        kept = [len(tokens[index]) for index in staying]
        self.advance_kwargs(outputs, self.kwargs, ran)
        width, longest = self.width, max(row.length for row in self.rows)
        layers = self._layers() if self.recorded is None else []  # slots stay where they are
        # The passes ran the unread columns of `_ids` and the first `beyond` of these columns. So the last token that a
        # row keeps has not been run yet, and the caches end `unread` columns before the ids.
        beyond = ran - self.unread
        unread = self.unread = max(1, max(kept) - beyond)
        columns = max(map(len, tokens))
        added = torch.tensor([[*new, *[new[-1]] * (columns - len(new))] for new in tokens],
                             device=self._ids.device, dtype=self._ids.dtype)  # fmt: skip
        ids = torch.cat([self._ids, added], dim=1)
        rows, standing = (torch.tensor(numbers, device=self.device) for numbers in (staying, kept))
        if self._gate is not None:
            self._gate.follow_rows(rows, ran - standing)
        if self.recorded is not None and len(staying) < len(tokens):
            self.recorded.keep_rows(rows)
        if len(staying) == len(tokens) and len(set(kept)) == 1:
            self._cut_back(layers, ids, beyond + unread - kept[0])
            return
        ends = standing + width
        text, cached = Move(rows, ends, longest), Move(rows, ends - unread, longest - unread)
        along = text if unread == 1 else Move(rows, ends - unread + 1, longest - unread + 1)
        self._ids = text.text(ids)
        lengths = torch.tensor([row.length for row in self.rows], device=ids.device)
        self._mask = (torch.arange(longest, device=ids.device) >= longest - lengths[:, None]).to(ids.dtype)
        for layer, fixed in layers:
            if fixed:
                select_rows(layer, rows)
            else:
                move_layer(layer, cached)
        for key, value in self.kwargs.items():
            if key in ALONG_TEXT and isinstance(value, Tensor):
                if self.recorded is not None:  # recorded passes know them by their slots
                    continue
                self.kwargs[key] = along.text(value, batch_dim=value.ndim - 2)
            elif key != "past_key_values":
                self.kwargs[key] = _rows_of(value, rows, len(tokens))

    def _cut_back(self, layers: list[tuple[Any, bool]], ids: Tensor, rejected: int) -> None:
        """As `keep`, where all rows stay and keep equally many columns: the end is cut off, and nothing has to move.

        ids: all columns of ids that stay. rejected: how many columns the caches lose at their end.
        """
        for layer, fixed in layers:
            if not fixed and layer.keys is not None and (rejected or getattr(layer, "record_past", False)):
                layer.crop(-rejected)
        self._ids, added = ids, ids.shape[1] - self._mask.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), added)], dim=1)
        for key in ALONG_TEXT:
            if (value := self.kwargs.get(key)) is not None and rejected and self.recorded is None:
                self.kwargs[key] = value[..., :-rejected]

    def _layers(self) -> list[tuple[Any, bool]]:
        """(layer, fixed) of the target's and the head's caches. A fixed layer does not grow with the text."""
        own = [(layer, index in self.fixed) for index, layer in enumerate(text_cache(self.cache).layers)]
        cross = [(layer, True) for layer in getattr(getattr(self.cache, "cross_attention_cache", None), "layers", [])]
        if self._gate is not None and self._gate.mode is Mode.DRAFT:  # early exit: the later layers are not used again
            own = own[: self._gate.exit_layer]
        head_cache = self._gate.head_cache if self._gate is not None else None
        if head_cache is not None:
            own += [(layer, False) for layer in text_cache(head_cache).layers]
            cross += [(x, True) for x in getattr(getattr(head_cache, "cross_attention_cache", None), "layers", [])]
        return own + cross

    @property
    def sequences(self) -> Tensor:
        """What `generate` returns, (B, padded prompt + most new tokens). Shorter rows are padded on the right."""
        rows = sorted([*self.rows, *self.ended], key=lambda row: row.place)
        pad = self.config.pad_token_id if self.config.pad_token_id is not None else min(self.end_tokens, default=0)
        most = max(len(row.tokens) for row in rows)
        new = self._prompts.new_tensor([row.tokens + [pad] * (most - len(row.tokens)) for row in rows])
        return torch.cat([self._prompts, new], dim=1)


def _rows_of(value: Any, rows: Tensor, count: int) -> Any:
    """Select the rows of anything that has `count` of them: a tensor, or an encoder's output. The rest is unchanged."""
    if isinstance(value, Tensor):
        return value.index_select(0, rows.to(value.device)) if value.ndim and value.shape[0] == count else value
    if hasattr(value, "items") and hasattr(value, "last_hidden_state"):
        return type(value)(**{key: _rows_of(part, rows, count) for key, part in value.items()})
    return value
