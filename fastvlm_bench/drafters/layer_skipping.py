"""Skips chosen sub-layers of any decoder while it drafts: the attention or the MLP of a layer, or the whole layer.

As with the layer gate, only `forward` is replaced, and the top-level model is called with real token ids. A skipped
attention or MLP returns zeros, which the layer adds to its states; a skipped layer returns the states that it got. The
sub-layers are found by what they are: the attention is the one child that takes the KV cache (or a recurrent state),
the MLP the one other child with matrices. Where that is not clear, a layer is skipped as a whole or not at all.
"""

import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache as cached
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.recurrent_state import undoable
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers, replaced
from fastvlm_bench.models.t5 import handing_on, shares_position_bias

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params")
"""Parameters by which a module takes a cache."""
Watch = Callable[[int, Tensor, tuple[Any, ...], dict[str, Any], Any], None]
"""Told of each layer that ran: its index, the states it got, its other arguments, and what it returned."""


class Parts(NamedTuple):
    """The sub-layers of a decoder layer. None where they cannot be told apart: then it is skipped as a whole."""

    attention: nn.Module | None
    mlp: nn.Module | None


class LayerSkipper:
    """Within `installed()`, the layers of `model` can be skipped: `with skipper.skipping(skip_set): ...`.

    drafting: whether a skip set is in force. watch: told of each layer that runs; None for nobody.
    """

    def __init__(self, model: Any) -> None:
        self.layers = decoder_layers(model)
        self.parts = [parts_of(layer) for layer in self.layers]
        self.drafting = False
        self.watch: Watch | None = None
        self._whole, self._attention, self._mlp = frozenset[int](), frozenset[int](), frozenset[int]()
        # How many values a module returns after its states, None for the states alone; learnt when it runs.
        self._further: dict[nn.Module, int | None] = {}

    @contextmanager
    def installed(self) -> Iterator["LayerSkipper"]:
        """Replace each layer's and sub-layer's `forward` for the time of one generation, and restore them exactly."""
        self.drafting, self.watch = False, None
        self._whole, self._attention, self._mlp = frozenset(), frozenset(), frozenset()
        gated = [(layer, partial(self._layer, index, layer, layer.forward)) for index, layer in enumerate(self.layers)]
        if shares_position_bias(self.layers):
            gated = [(layer, handing_on(self.layers, forward)) for layer, forward in gated]  # type: ignore[misc]
        with undoable(self.layers), replaced([*self._gated_parts(), *gated]):
            yield self

    @contextmanager
    def skipping(self, skip_set: SkipSet) -> Iterator[None]:
        """Skip these sub-layers in every pass of the block."""
        self.drafting, self._whole = True, skip_set.whole
        self._attention, self._mlp = skip_set.attention - self._whole, skip_set.mlp - self._whole
        try:
            yield
        finally:
            self.drafting = False
            self._whole, self._attention, self._mlp = frozenset(), frozenset(), frozenset()

    @property
    def in_force(self) -> Hashable:
        """What is skipped now."""
        return self.drafting, self._whole, self._attention, self._mlp

    def units(self, session: Session) -> list[SkipSet]:
        """What may be skipped, in the order of the layers: single sub-layers, or layers whose parts are not known.

        The first and the last layer always run, and the attention of every layer in `must_run`. Call it after the
        prefill.
        """
        needed, found = must_run(session), list[SkipSet]()
        for index in range(1, len(self.layers) - 1):
            if None in self.parts[index]:
                found += [] if index in needed else [SkipSet.of_layers([index])]
                continue
            found += [] if index in needed else [SkipSet(attention=frozenset([index]))]
            found.append(SkipSet(mlp=frozenset([index])))
        return found

    def check(self, skip_set: SkipSet, session: Session) -> None:
        """UsageError if the model cannot skip this set. Call it after the prefill."""
        units, architecture = self.units(session), type(session.model).__name__
        allowed = SkipSet.union(units)
        for what, wanted, may in (
            ("the attention", skip_set.attention, allowed.attention), ("the MLP", skip_set.mlp, allowed.mlp),
        ):  # fmt: skip
            if wrong := sorted(wanted - may):
                raise UsageError(f"{architecture} cannot skip {what} of layer {wrong[0]}; it may be one of "
                                 f"{', '.join(map(str, sorted(may))) or 'none'}")  # fmt: skip
        halves = [i for i in sorted(skip_set.attention ^ skip_set.mlp) if None in self.parts[i]]
        if halves:
            raise UsageError(f"{architecture}: attention and MLP of layer {halves[0]} cannot be told apart; skip both")

    def roll_back(self, session: Session, skip_set: SkipSet, tokens: int) -> None:
        """Forget the last `tokens` tokens in the layers that have read them: those whose attention was not skipped."""
        for index, layer in enumerate(text_cache(session.cache).layers):
            if index not in session.fixed and index not in skip_set.attention:
                layer.crop(-tokens)

    def _layer(
        self, index: int, layer: nn.Module, forward: Callable[..., Any], states: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if index in self._whole:
            return self._with_further(layer, states)
        result = forward(states, *args, **kwargs)
        if layer not in self._further:
            self._further[layer] = _count(result)
        if self.watch is not None:
            self.watch(index, states, args, kwargs, result)
        return result

    def _gated_parts(self) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
        for index, (attention, mlp) in enumerate(self.parts):
            if attention is not None and mlp is not None:
                yield attention, partial(self._part, index, True, attention, attention.forward)
                yield mlp, partial(self._part, index, False, mlp, mlp.forward)

    def _part(
        self, index: int, attends: bool, part: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if index in (self._attention if attends else self._mlp):
            return self._with_further(part, torch.zeros_like(args[0] if args else kwargs["hidden_states"]))
        result = forward(*args, **kwargs)
        if part not in self._further:
            self._learn(index, part, args[0] if args else kwargs.get("hidden_states"), result)
        return result

    def _learn(self, index: int, part: nn.Module, states: Any, result: Any) -> None:
        """Remember how the part returns its states. One whose states are not of the shape it gets is never skipped."""
        own = result[0] if isinstance(result, tuple) else result
        self._further[part] = _count(result)
        if not isinstance(states, Tensor) or not isinstance(own, Tensor) or own.shape != states.shape:
            self.parts[index] = Parts(None, None)

    def _with_further(self, module: nn.Module, states: Tensor) -> Any:
        count = self._further.get(module)
        return states if count is None else (states, *[None] * count)


def must_run(session: Session) -> frozenset[int]:
    """Layers whose attention always runs: the first of each kind of cache, and those whose KV other layers use.

    Masks and positions are sized from the first layer of each kind. If it did not grow while drafting, they would be
    too short for the layers that do. A layer that holds no cache (of experts alone, or with the KV of another layer)
    sizes none. Call it after the prefill.
    """
    first: dict[Any, int] = {}
    for index, layer in reversed(list(enumerate(text_cache(session.cache).layers))):
        if getattr(layer, "keys", None) is not None or hasattr(layer, "conv_states"):
            first[session.kind(index)] = index
    return frozenset(first.values()) | _donors(session.model)


def _donors(model: Any) -> frozenset[int]:
    """The layers whose KV the last layers use (Gemma 4), one for each kind of attention."""
    text = model.config.get_text_config(decoder=True)
    shared, kinds = getattr(text, "num_kv_shared_layers", 0) or 0, getattr(text, "layer_types", None)
    if not shared or not kinds:
        return frozenset()
    own, using = kinds[:-shared], set(kinds[-shared:])
    return frozenset(len(own) - 1 - own[::-1].index(kind) for kind in using if kind in own)


def parts_of(layer: nn.Module) -> Parts:
    """The attention and the MLP of a decoder layer; (None, None) unless it has just one child of each."""
    children = list(layer.children())
    attending = [child for child in children if takes_cache(child)]
    others = [
        child for child in children
        if child not in attending and not isinstance(child, nn.Linear | nn.ModuleList | nn.Embedding)
        and any(parameter.ndim >= 2 for parameter in child.parameters())
    ]  # fmt: skip
    hidden = [m for child in children if child not in attending for m in child.modules() if takes_cache(m)]
    if len(attending) != 1 or len(others) != 1 or hidden:
        return Parts(None, None)
    return Parts(attending[0], others[0])


def takes_cache(module: nn.Module) -> bool:
    """Whether the module's `forward` takes a KV cache or a recurrent state."""
    return _takes_cache(type(module))  # type: ignore[arg-type]


@cached
def _takes_cache(kind: type[nn.Module]) -> bool:
    return any(name in inspect.signature(kind.forward).parameters for name in CACHES)


def _count(result: Any) -> int | None:
    return len(result) - 1 if isinstance(result, tuple) else None
