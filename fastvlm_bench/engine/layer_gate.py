"""The layer gate: runs a part of any decoder by replacing its layers' `forward`, and nothing else.

The top-level model is always called with real token ids, so masks, rotary or learned positions, per-layer inputs,
norms, soft-capping and the LM head stay the model's own, and layer indices never move.
"""

import copy
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.head_cache import check_seen, like_cache, shifted
from fastvlm_bench.engine.recurrent_state import undoable
from fastvlm_bench.models.layers import decoder_layers, replaced
from fastvlm_bench.models.t5 import handing_on, shares_position_bias


class Mode(Enum):
    """FULL: every layer runs, and a head with KV reads along: the prefill. PLAIN: every layer runs, for one token.

    DRAFT: layers below the exit, then the head. VERIFY: only layers from the exit on. CATCH_UP: only the head, over
    tokens of plain passes (where passes are recorded; else it is called by itself).
    """

    FULL = 0
    DRAFT = 1
    VERIFY = 2
    PLAIN = 3
    CATCH_UP = 4


class Head(Protocol):
    """What stands between the exit and the target's own norm and LM head while drafting."""

    attends: bool  # it has KV of its own, which is filled at prefill and rolled back with the target's
    # It takes `previous`, the last layer's state one position before; within a draft, its own output in place of that.
    recurs: bool

    def __call__(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor: ...


class Output(Protocol):
    """An LM head that drafts from a part of the vocabulary only."""

    replaces: nn.Module  # the target's LM head, whose place it takes while drafting

    def __call__(self, states: Tensor) -> Tensor: ...


class LayerGate:
    """Gates `layers` at `exit_layer` = n: drafting runs layers 0 .. n-1. ValueError unless 1 <= n < L.

    Each drafting pass appends to `kept` the states that arrive at layer n, (rows, 1, width). Verification starts from
    them, so the early layers are not computed again.
    """

    def __init__(
        self, layers: nn.ModuleList, exit_layer: int, head: Head | None = None, output: Output | None = None
    ) -> None:
        if not 1 <= exit_layer < len(layers):
            raise ValueError(f"exit layer {exit_layer} is not within 1 .. {len(layers) - 1}")
        self.layers, self.exit_layer, self.head, self.output = layers, exit_layer, head, output
        self.mode = Mode.FULL
        self.kept: list[Tensor] = []
        self._prompt_shape: tuple[int, ...] = ()  # of the states that arrived at the exit with the prompt
        self.head_cache: Any = None
        self.missed: list[tuple[Tensor, Any, dict[str, Any]]] = []  # the head's inputs in plain passes
        # `last`, `previous` and `_prompt` serve only a head that recurs.
        self.last: Tensor | None = None  # the last layer's states in the latest pass that ran it, (rows, k, width)
        self.previous: Tensor | None = None  # the head's next `previous`, (rows, 1, width)
        self.fixed: Tensor | None = None  # where a recorded pass finds the states that it begins with
        self._further: tuple[None, ...] | None = None  # a None for each value that a layer returns after its states
        self._prompt: tuple[Tensor, Any, dict[str, Any]] | None = None  # the head's inputs, until the last layer ran

    @classmethod
    def of(cls, model: Any, draft: Draft) -> "LayerGate":
        """The gate that a draft needs on this model."""
        return cls(decoder_layers(model), draft.exit_layer, draft.head, draft.output)

    @contextmanager
    def installed(self, head_cache: Any = None) -> Iterator["LayerGate"]:
        """Replace each layer's `forward` for the time of one generation, and restore it exactly."""
        self.mode, self.kept, self.missed, self.head_cache, self._prompt_shape = Mode.FULL, [], [], head_cache, ()
        gated = [(layer, self._gated(index, layer.forward)) for index, layer in enumerate(self.layers)]
        if shares_position_bias(self.layers):
            gated = [(layer, handing_on(self.layers, forward)) for layer, forward in gated]
        if self.output is not None:
            gated.append((self.output.replaces, self._reduced(self.output, self.output.replaces.forward)))
        try:
            with undoable([*self.layers, *getattr(self.head, "layers", ())]), replaced(gated):
                yield self
        finally:
            self.kept, self.missed, self.head_cache, self.last, self.previous = [], [], None, None, None

    def _gated(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        if index < self.exit_layer:

            def below(states: Tensor, *args: Any, **kwargs: Any) -> Any:
                skipped = self.mode in (Mode.VERIFY, Mode.CATCH_UP)
                return self._handed_on(states) if skipped else forward(states, *args, **kwargs)

            return below
        if index > self.exit_layer:

            def above(states: Tensor, *args: Any, **kwargs: Any) -> Any:
                skipped = self.mode in (Mode.DRAFT, Mode.CATCH_UP)
                return self._handed_on(states) if skipped else forward(states, *args, **kwargs)

            recurs = self.head is not None and self.head.recurs
            return self._remembered(above) if recurs and index == len(self.layers) - 1 else above

        head, fills = self.head, self.head is not None and self.head.attends
        recurs = head is not None and head.recurs

        def at_exit(states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.mode is Mode.DRAFT:
                self.kept.append(states)
                if head is not None:
                    states = self._draft(head, states, args, self._with_own_cache(kwargs) if fills else kwargs)
                return self._handed_on(states)
            if self.mode is Mode.CATCH_UP and head is not None:
                before = {"previous": self.previous} if recurs else {}
                head(self.fixed if self.fixed is not None else states, *args, **self._with_own_cache(kwargs), **before)
                return self._handed_on(states)
            if self.mode is Mode.VERIFY:
                states = self.kept_states() if self.fixed is None else self.fixed
            elif self.mode is Mode.PLAIN and fills:
                self.missed.append((states, args, kwargs | ({"previous": self.previous} if recurs else {})))
            elif not self._prompt_shape:
                self._prompt_shape = tuple(states.shape)
            if self.mode is Mode.FULL and fills and head is not None:  # prefill: the head runs once, to fill its KV
                if self.head_cache is not None:
                    target_cache = kwargs.get("past_key_values")
                    self.head_cache = like_cache(target_cache, self.exit_layer, self.head_cache)
                    check_seen(target_cache, self.exit_layer, self.head_cache)
                if head.recurs:  # it also needs the last layer's states, so `_remember` runs it
                    self._prompt = (states, args, self._with_own_cache(kwargs))
                else:
                    head(states, *args, **self._with_own_cache(kwargs))
            result = forward(states, *args, **kwargs)
            self._further = (None,) * (len(result) - 1) if isinstance(result, tuple) else None
            if head is not None and head.recurs and self.exit_layer == len(self.layers) - 1:
                self._remember(result)
            return result

        return at_exit

    @property
    def key(self) -> Hashable:
        """What tells a pass from others of its width: its mode, and how much a head says that may say more."""
        return self.mode, getattr(self.head, "window", None)

    @property
    def drafts(self) -> list[tuple[Head | None, Output | None]]:
        """The head, and the LM head that takes the target's place, of each exit."""
        return [(self.head, self.output)]

    @property
    def head_caches(self) -> list[Any]:
        """The caches of heads that have KV."""
        return [] if self.head_cache is None else [self.head_cache]

    def catch_up(self) -> None:
        """Let a head with KV read the tokens of plain passes, which it has not seen. Call it before drafting."""
        missed, self.missed = self.missed, []
        for states, args, kwargs in missed:
            if self.head is not None:
                self.head(states, *args, **self._with_own_cache(kwargs))

    def kept_states(self) -> Tensor:
        """What drafting kept, as one block for verification."""
        return self.kept[0] if len(self.kept) == 1 else torch.cat(self.kept, dim=self._tokens_dim())

    def _tokens_dim(self) -> int:
        """Along which dimension of the kept states the tokens lie: the one after the rows, for most families.

        Layers that hand on several streams may have these in front (Gemma 3n: streams, rows, tokens, width) or behind
        (GLM-5: rows, tokens, streams, width). It is then the only one in which a pass over one token differs from the
        prompt's.
        """
        one = self.kept[0].shape
        if len(one) > 3 and len(one) == len(self._prompt_shape):
            sizes = zip(one, self._prompt_shape, strict=True)
            unlike = [dim for dim, (size, other) in enumerate(sizes) if size != other]
            if len(unlike) == 1:
                return unlike[0]
        return 1

    def _handed_on(self, states: Tensor) -> Any:
        """What a skipped layer returns: the states it got, in a tuple with Nones if the other layers return tuples."""
        return states if self._further is None else (states, *self._further)

    def _draft(self, head: Head, states: Tensor, args: Any, kwargs: dict[str, Any]) -> Tensor:
        if not head.recurs:
            return head(states, *args, **kwargs)
        self.previous = head(states, *args, previous=self.previous, **kwargs)
        return self.previous

    def _remembered(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def last(states: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = forward(states, *args, **kwargs)
            if self.mode not in (Mode.DRAFT, Mode.CATCH_UP):
                self._remember(result)
            return result

        return last

    def _remember(self, result: Any) -> None:
        """Keep the last layer's states. After the prefill, run the head over the prompt, for which it needs them."""
        self.last = last = result[0] if isinstance(result, tuple) else result
        self.previous = last[:, -1:]
        if self._prompt is not None and self.head is not None:
            (states, args, kwargs), self._prompt = self._prompt, None
            self.head(states, *args, previous=shifted(last), **kwargs)

    def _reduced(self, output: Output, forward: Callable[..., Any]) -> Callable[..., Any]:
        def reduced(states: Tensor) -> Any:
            return output(states) if self.mode is Mode.DRAFT else forward(states)

        return reduced

    def follow_rows(self, rows: Tensor, rejected: Tensor) -> None:
        """In a batch: let a head that recurs go on from each row's own last kept state. The caller moves the KV.

        rows: (n,), the rows that stay. rejected: (n,), how many of the columns of the latest pass each of them drops.
        """
        if self.mode is Mode.DRAFT:
            self.previous = None if self.previous is None else self.previous[rows]
        elif self.last is not None:
            self.previous = self.last[rows, self.last.shape[1] - 1 - rejected][:, None]

    def follow_branch(self, columns: Sequence[int]) -> None:
        """In a tree: let a head that recurs go on after these columns of the latest pass, one for each of its next."""
        states = self.previous if self.mode is Mode.DRAFT else self.last
        if self.head is not None and self.head.recurs and states is not None:
            self.previous = states[:, list(columns)]

    def draft_view(self, cache: Any) -> Any:
        """The cache as drafting must see it: where the head attends, its cache layers replace those after the exit.

        A mask is sized from the first layer of its kind. If that layer lies beyond the exit, it does not grow while
        drafting, and the head, which is of that kind, would get a mask that is too short.
        """
        if self.head_cache is None or self.head is None:
            return cache
        own = getattr(self.head_cache, "self_attention_cache", self.head_cache).layers
        view = copy.copy(cache)
        text = view
        if hasattr(view, "self_attention_cache"):
            text = view.self_attention_cache = copy.copy(view.self_attention_cache)
        own = own[: len(getattr(self.head, "layers", ()))]
        text.layers = [*text.layers[: self.exit_layer], *own, *text.layers[self.exit_layer + len(own) :]]
        return view

    def roll_back_head(self, count: int) -> None:
        """Forget the last `count` tokens: the head's KV of them, and their states, from which it would go on."""
        if self.last is not None and (kept := self.last.shape[1] - count) > 0:
            self.previous = self.last[:, kept - 1 : kept]
        if self.head_cache is not None:
            for layer in getattr(self.head_cache, "self_attention_cache", self.head_cache).layers:
                convolves = any(getattr(layer, "is_conv_states_initialized", {}).values())
                if convolves or getattr(layer, "keys", None) is not None:
                    layer.crop(-count)

    def _with_own_cache(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {**kwargs, "past_key_values": self.head_cache}
