"""A second model that drafts: its own prompt, its own cache, and an output that follows what the target has said.

The second model is decoded by a session of its own, so that its masks, positions, caches, ragged rows and rollbacks are
those of any model. But the tokens that it emits are the target's. It reads no token in vain: the last draft of a round
is not read, and if it stands the next round begins with a pass of two tokens. `Session.unread` counts such a lag.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutputWithPast

from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.engine.batch_session import BatchSession
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.proposing import Proposing
from fastvlm_bench.engine.recurrent_state import can_roll_back, undoable
from fastvlm_bench.engine.rows import Row, Tokens
from fastvlm_bench.engine.session import Session, placeholders
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.draft_model import described, load_draft_model, weight_bytes
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.load import Target


class Follower:
    """The second model's session of one generation. It has read the prompt once it is made.

    inputs: the second model's own, of one row or several. most: how many tokens its output may have.
    """

    def __init__(self, model: Any, inputs: dict[str, Any], most: int, clock: Clock) -> None:
        self.model, self.clock, self.ran = model, clock, 0
        self.unreadable = placeholders(model)
        self.embeddings = int(model.get_input_embeddings().weight.shape[0])
        self.neutral = next(token for token in range(self.embeddings) if token not in self.unreadable)
        text = model.config.get_text_config(decoder=True)
        self.positions = getattr(text, "max_position_embeddings", None)
        self._kwargs: dict[str, Any] = {}
        self._indices: dict[tuple[int, ...], Tensor] = {}
        model.generate(**inputs, max_new_tokens=most, do_sample=False, num_beams=1, custom_generate=self._open)

    def _open(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """What `generate` calls: read the prompt. The session goes on when `generate` has returned."""
        kind = Session if len(input_ids) == 1 else BatchSession
        given = {**prepared, "logits_processor": LogitsProcessorList(), "stopping_criteria": [], "streamer": None}
        self.session = kind(model, input_ids, clock=self.clock, **given)
        self.session.end_tokens = frozenset()  # the target alone says where the output ends
        self.outputs = self.session.read_prompt()
        return input_ids

    def begin(self, first: Tokens, stops: Sequence[str]) -> None:
        """The first tokens of the output of all rows are known. stops: why a row has stopped; "" where it goes on.

        UsageError where the model's cache cannot be rolled back.
        """
        self.ran = 1  # the prompt's last column
        self._keep(self.outputs, first, stops)
        del self.outputs
        if not can_roll_back(self.session.cache, decoder_layers(self.model)):
            raise UsageError(
                f"{type(self.model).__name__} keeps states that cannot be rolled back, so it cannot draft; choose "
                "another draft model"
            )
        self.session.record_past()

    @property
    def full(self) -> bool:
        """Whether the model has no position left for one more token."""
        length = max((row.length for row in self.session.rows), default=0)
        return not self.session.rows or (self.positions is not None and length + self.ran >= self.positions)

    def read(self, ahead: Tokens) -> Tensor:
        """Read what is unread of the output, or the last column of `ahead`. Returns the next logits, (rows, 1, vocab).

        ahead: the drafts of each row that follow its output.
        """
        session = self.session
        if not self.ran:
            self._kwargs, count = dict(session.kwargs), session.unread
            self._advance(count - 1)
        else:
            count = 1
            self._advance(1)
        outputs = session.forward(count, [self.readable(row) for row in ahead], self._kwargs, logits=1)
        self.ran += count
        logits: Tensor = outputs.logits[:, -1:]
        return logits

    def _advance(self, count: int) -> None:
        self.session.advance_kwargs(BaseModelOutputWithPast(past_key_values=self.session.cache), self._kwargs, count)

    def readable(self, tokens: Sequence[int]) -> list[int]:
        """The tokens, with another one for each that the model has no embedding for, or that stands for an image.

        The target may say tokens that the second model does not know: they make its drafts worse, not the output.
        """
        return [token if token < self.embeddings and token not in self.unreadable else self.neutral for token in tokens]

    def drawable(self, logits: Tensor, vocabulary: int) -> Tensor:
        """Logits for the target's LM head: cut or filled up to its size, and none for what the model cannot read."""
        short = vocabulary - logits.shape[-1]
        if short < 0:
            logits = logits[..., :vocabulary]
        elif short:
            logits = nn.functional.pad(logits, (0, short), value=-torch.inf)
        never = [token for token in self.unreadable if token < vocabulary]
        return logits.index_fill(-1, self._index(tuple(never), logits.device), -torch.inf) if never else logits

    def _index(self, tokens: tuple[int, ...], device: torch.device) -> Tensor:
        """The tokens as a tensor, which is sent to the device once, not for each draft."""
        if tokens not in self._indices:
            self._indices[tokens] = torch.tensor(tokens, device=device)
        return self._indices[tokens]

    def follow(self, tokens: Tokens, stops: Sequence[str]) -> None:
        """Append each row's tokens, which its drafts may begin with, and forget what was read of the other drafts."""
        self._keep(BaseModelOutputWithPast(past_key_values=self.session.cache), tokens, stops)

    def _keep(self, outputs: Any, tokens: Tokens, stops: Sequence[str]) -> None:
        tokens = [self.readable(row) for row in tokens]
        self.session.emit(tokens)
        for row, stop in zip(self.session.rows, stops, strict=True):
            row.stop = row.stop or stop
        self.session.keep(outputs, tokens, self.ran)
        self.ran = 0

    def retell(self, tail: Sequence[int], drafts: Sequence[int]) -> None:
        """Of the only row: let `tail` stand for what was unread of the output when the round began, and go on from it.

        drafts: those of the round. What the passes have read is kept as far as it is the beginning of `tail`.
        """
        session, (row,) = self.session, self.session.rows
        tail = self.readable(tail)
        kept = len(row.tokens) - session.unread
        read = [*row.tokens[kept:], *self.readable(drafts)][: self.ran]
        same = next((i for i, (a, b) in enumerate(zip(read, tail, strict=False)) if a != b), min(len(read), len(tail)))
        same = min(same, len(tail) - 1)  # one token must be left to be read, since logits follow from a pass
        if self.ran > same:
            session.roll_back(self.ran - same)
        del row.tokens[kept:]
        session.length -= session.unread
        session.unread, self.ran = 0, same
        self._keep(BaseModelOutputWithPast(past_key_values=session.cache), [tail], [""])


class DraftPasses(Method):
    """Stands for the second model's own passes, where the engine `graphs` records them."""

    def __init__(self, gamma: int) -> None:
        super().__init__()
        self.gamma = gamma

    @property
    def beyond(self) -> int:
        return self.gamma + 1


class SecondModel(Proposing):
    """A method whose drafts come from a model of its own, which is shown the image and the prompt by `show`.

    model: what the user typed, or a loaded one. target: the target with its processor; the second model is loaded on
    its device and in its dtype. gamma: γ, most tokens drafted per round. stop_below: drafting stops where the likeliest
    next token is less probable than this (0 = never). ValueError for values out of range, UsageError for a model that
    cannot draft.
    """

    sees = True

    def __init__(
        self, model: str | Target, *, target: Target, gamma: int = 10, stop_below: float = 0.0,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, stop_below=stop_below, clock=clock)
        self.second = load_draft_model(model, target) if isinstance(model, str) else model
        decoder_layers(self.second.model)  # raises UsageError where they cannot be found
        if self.second.model is target.model:
            raise UsageError(f"the draft model is the target itself, loaded once: load {self.second.id} a second time")
        self._shown: list[dict[str, Any]] = []
        self._most, self._passes = 0, DraftPasses(gamma)

    @property
    def drafter(self) -> dict[str, Any]:
        return described(self.second)

    @property
    def weight_bytes(self) -> int:
        return weight_bytes(self.second)

    @property
    def helper(self) -> nn.Module:
        found: nn.Module = self.second.model
        return found

    def show(self, shown: Sequence[tuple[Any, ...]]) -> None:
        self._shown = [self.second.encode(*each) for each in shown]

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        """As in `Method`. UsageError if `show` was not called for as many rows."""
        if len(self._shown) != len(input_ids):
            raise UsageError(
                f"the draft model was shown {len(self._shown)} samples, and {len(input_ids)} are decoded: call "
                "show([(image, prompt), ...]) of the method before generate"
            )
        self._most = max(int(prepared["generation_config"].max_length) - input_ids.shape[1], 1)
        return super().__call__(model, input_ids, **prepared)

    @contextmanager
    def _at_work(self, inside: AbstractContextManager[Any]) -> Iterator[None]:
        with inside, undoable(decoder_layers(self.second.model)):
            self.open(self._shown, self._most)  # here, so that its prefill is part of the time to first token
            try:
                yield
            finally:
                self.close()

    def around(self, model: Any) -> AbstractContextManager[Any]:
        return self._at_work(super().around(model))

    def record_beside(self, session: Session) -> str | None:
        if session.takes_several:
            return "a draft model that drafts for several rows runs passes of its own"
        for follower in self.followers():
            self.engine.take_over(follower.session, self._passes)
        return None

    def followers(self) -> Sequence[Follower]:
        """The sessions of the second model that are open."""
        raise NotImplementedError

    def open(self, shown: Sequence[dict[str, Any]], most: int) -> None:
        """Let the second model read the prompt. shown: its inputs of each row. most: new tokens of each row."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what `open` made."""
        raise NotImplementedError

    def pad(self) -> int:
        """The id that fills up the second model's shorter prompts in a batch."""
        pad = getattr(self.second.model.generation_config, "pad_token_id", None)
        return pad if isinstance(pad, int) else 0

    def together(self, shown: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The inputs of all rows as those of one batch."""
        return dict(shown[0]) if len(shown) == 1 else collate(shown, self.pad())


def all_rows(session: Session) -> list[Row]:
    """The rows of a session that go on and those that have stopped, in the order of the input."""
    return sorted([*session.rows, *session.ended], key=lambda row: row.place)
