"""Rolls back recurrent layers: gated delta nets, Kimi delta attention, Mamba 2.

A recurrent state keeps no past, and transformers' `crop` would leave it wrong without an error. So each recurrent
layer's states are copied before each pass of a round, and a rollback restores the copy from before the first rejected
token. That alone undoes drafting, where a pass has one token. A verification has several: there the accepted tokens
are then replayed from the copy. The replay runs only the convolution and the recurrence. What the layer's linear maps
returned in the pass is remembered, so that no weights are read twice. All computation is transformers' own code.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as cached
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import LinearAttentionLayer

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import replaced

States = tuple[dict[int, Tensor | None], dict[int, Tensor | None]]


@dataclass(frozen=True)
class Pass:
    """A pass of `tokens` tokens through a recurrent layer. before: its states before. replay(n): repeat the first n."""

    tokens: int
    before: States
    replay: Callable[[int], Any]


class RestorableLayer(LinearAttentionLayer):
    """A recurrent layer's cache that can be rolled back. passes: those since the last `crop`; None if not recorded.

    For a layer that only convolves, transformers' own `crop` is right, and is used.
    """

    passes: list[Pass] | None = None
    record_past: bool

    def states(self) -> States:
        """Copies of the convolution's and the recurrence's states."""
        if self.record_past:  # transformers then keeps more of the past than the convolution reads: cut it off
            self.record_past = False
            for index, size in self.conv_kernel_size.items():
                if (states := self.conv_states[index]) is not None:
                    short = max(size - states.shape[-1], 0)
                    self.conv_states[index] = nn.functional.pad(states, (short, 0))[..., -size:].contiguous()
        return _copies(self.conv_states), _copies(self.recurrent_states)

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        """Store the new state itself. transformers overwrites the old tensor, which backpropagation still needs."""
        self.is_recurrent_states_initialized[state_idx] = True
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` tokens. What passed before this call can then not be rolled back."""
        if not recurs(self):
            super().crop(tokens_to_remove)
            return
        rejected, passes, self.passes = -tokens_to_remove, self.passes or [], []
        while rejected > 0:
            if not passes:
                raise RuntimeError("a recurrent state from before the last rollback is not kept")
            last = passes.pop()
            self.conv_states, self.recurrent_states = last.before
            if last.tokens > rejected:
                last.replay(last.tokens - rejected)
            rejected -= last.tokens


def recurs(layer: Any) -> bool:
    """Whether a layer of a cache holds a recurrent state. This is known only once the prompt has passed."""
    return any(getattr(layer, "is_recurrent_states_initialized", {}).values())


def can_roll_back(cache: Any, layers: nn.ModuleList) -> bool:
    """Whether everything that `layers` keep in `cache` can be rolled back. The prompt must have passed before."""
    if getattr(cache, "is_croppable", False):
        return True
    known = {mixer.layer_idx for mixer in _mixers(layers)}
    return hasattr(cache, "layers") and all(
        _restorable(layer) and index in known if recurs(layer) else layer.is_croppable
        for index, layer in enumerate(cache.layers)
    )


def make_restorable(cache: Any) -> None:
    """Make the cache's layers that are recurrent, or may become so, ones that can be rolled back. In place."""
    for layer in getattr(cache, "layers", ()):
        if _restorable(layer):
            layer.__class__ = RestorableLayer


def keep_passes(cache: Any) -> None:
    """Let the recurrent layers of `cache` record from now on what `crop` needs. They do so only within `undoable`.

    UsageError where one of them cannot be rolled back.
    """
    make_restorable(cache)
    for layer in getattr(cache, "layers", ()):
        if recurs(layer) and not isinstance(layer, RestorableLayer):
            raise UsageError(
                f"a {type(layer).__name__} with {layer.number_of_states} states of each kind cannot be rolled back: "
                "the model can be decoded by --method standard or hf-generate only"
            )
        if recurs(layer):
            layer.passes = []


@contextmanager
def undoable(layers: Iterable[nn.Module]) -> Iterator[None]:
    """A context in which passes of the layers' recurrent parts are recorded, for caches prepared by `keep_passes`."""
    with replaced([(mixer, partial(_undoable_pass, mixer, mixer.forward)) for mixer in _mixers(layers)]):
        yield


def _copies(states: dict[int, Tensor | None]) -> dict[int, Tensor | None]:
    return {index: None if state is None else state.clone() for index, state in states.items()}


def _restorable(layer: Any) -> bool:
    return type(layer) in (LinearAttentionLayer, RestorableLayer) and layer.number_of_states == 1


def _mixers(layers: Iterable[nn.Module]) -> list[Any]:
    """The parts of the layers that read and write recurrent states, at most one per layer."""
    return [part for layer in layers for part in layer.children() if _takes_cache_params(type(part))]  # type: ignore[arg-type]


@cached
def _takes_cache_params(kind: type[nn.Module]) -> bool:
    return "cache_params" in inspect.signature(kind.forward).parameters


def _undoable_pass(mixer: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    cache = kwargs.get("cache_params")
    layer = cache.layers[mixer.layer_idx] if cache is not None else None
    if not isinstance(layer, RestorableLayer) or layer.passes is None:
        return forward(*args, **kwargs)
    if args:  # the first argument is the hidden states, which may also come by name
        args, kwargs = args[1:], {"hidden_states": args[0], **kwargs}
    tokens, before = kwargs["hidden_states"].shape[1], layer.states()
    if tokens == 1:
        layer.passes.append(Pass(tokens, before, _nothing_to_replay))
        return forward(*args, **kwargs)
    maps = [part for part in mixer.modules() if isinstance(part, nn.Linear)]
    told: dict[nn.Linear, Tensor] = {}

    def remember(part: nn.Linear, own: Callable[..., Tensor], states: Tensor) -> Tensor:
        told[part] = own(states)
        return told[part]

    def replay(count: int) -> None:
        cut = {
            key: kwargs[key][:, :count]
            for key in ("hidden_states", "attention_mask") if isinstance(kwargs.get(key), Tensor)
        }  # fmt: skip
        with replaced([(part, partial(_answer, told[part], count)) for part in told]):
            forward(*args, **{**kwargs, **cut})

    layer.passes.append(Pass(tokens, before, replay))
    with replaced([(part, partial(remember, part, part.forward)) for part in maps]):
        return forward(*args, **kwargs)


def _answer(told: Tensor, count: int, _: Tensor) -> Tensor:
    return told[..., :count, :]


def _nothing_to_replay(count: int) -> None:
    raise RuntimeError("a pass of one token is undone as a whole")
