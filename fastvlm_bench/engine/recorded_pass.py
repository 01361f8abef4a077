"""One pass of a generation on slots: as a call of the gated model, and as the record of it that is repeated."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import import_utils

from fastvlm_bench.engine.cuda_graph import CudaGraph
from fastvlm_bench.engine.engine import Carrier
from fastvlm_bench.engine.recordable import weights
from fastvlm_bench.engine.tape import CannotRecord, Tape


class Branches(NamedTuple):
    """What a pass over a part of a tree reads beside its tokens.

    places: (columns,), how many tokens each column follows. mask: (1, 1, columns, slots), added to the attention's
    logits.
    """

    places: Tensor
    mask: Tensor


class Kind:
    """A pass as it is recorded: over `count` tokens, with logits of the last `logits`. tree: over a part of a tree.

    of: the generation, a `Recorded`.

    counts: how many tensors each carrier took in the latest call of the model.
    """

    def __init__(self, of: Any, count: int, logits: int, tree: bool) -> None:
        self.of, self.count, self.logits, self.tree = of, count, logits, tree
        self.key = count, logits, tree
        self.counts: list[int] = []

    def call(self, fixed: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
        """A call of the gated model that finds what it is given in `fixed`: ids, arguments, branches, then carriers'.

        It returns the logits, and what its carriers took.
        """
        session, slots, names = self.of.session, self.of.store.slots, list(self.of._along)
        carriers, count = self.of.carriers, self.count
        sizes = [len(carrier.given()) for carrier in carriers]
        kwargs = {k: v for k, v in session.kwargs.items() if k not in ("attention_mask", *names)}
        if "logits_to_keep" in kwargs:
            kwargs["logits_to_keep"] = self.logits

        def run() -> tuple[Tensor, ...]:
            slots.open(count)
            ids, along, rest = fixed[0], fixed[1 : 1 + len(names)], fixed[1 + len(names) :]
            branches = Branches(*rest[:2]) if self.tree else None
            places = slots.columns if branches is None else branches.places
            for name, one in zip(names, along, strict=True):
                kwargs[name] = places + one if name == "position_ids" else one.expand(*one.shape[:-1], count)
            rest = rest[2:] if self.tree else rest
            for carrier, size in zip(carriers, sizes, strict=True):
                carrier.give(rest[:size])
                rest = rest[size:]
            own = dict[str, Tensor]()
            if branches is not None or slots.rows is not None:  # transformers would make another mask, and positions
                own["attention_mask"] = slots.mask(session.model.dtype) if branches is None else branches.mask
                there = kwargs["position_ids"] if "position_ids" in names else places.view(-1, count)
                own["position_ids"] = there
            inputs = session.model.prepare_inputs_for_generation(ids, next_sequence_length=count, **{**kwargs, **own})
            inputs.update(own)
            outputs = session.model(**inputs, return_dict=True)
            taken = [carrier.taken() for carrier in carriers]
            self.counts = [len(each) for each in taken]
            return outputs.logits, *(one for each in taken for one in each)

        return run


class Pass:
    """A recorded pass of any generation with the same store and method.

    output: what a call returns. The next call writes over its logits.
    """

    def __init__(self, kind: Kind, given: tuple[Tensor, ...]) -> None:
        self._fixed, of = tuple(one.clone() for one in given), kind.of
        slots, layers = of.store.slots, of.store.layers(of.method)
        changing = [slots.start, *self._fixed, *(one for layer in layers for one in (layer.keys, layer.values))]
        run = kind.call(self._fixed)
        self._graph = record(of.engine, of.session.model, run, changing, weights(of.session))
        self.nbytes = self._graph.nbytes
        said, *self._taken = self._graph.outputs
        self._counts = kind.counts
        self.output = CausalLMOutputWithPast(logits=said)

    def __call__(self, given: tuple[Tensor, ...], carriers: Sequence[Carrier]) -> CausalLMOutputWithPast:
        for fixed, now in zip(self._fixed, given, strict=True):
            fixed.copy_(now)
        self._graph.replay()
        hand_over(carriers, self._counts, self._taken)
        return self.output


def record(
    engine: Any, model: Any, run: Callable[[], tuple[Tensor, ...]], changing: Sequence[Tensor], known: Sequence[Tensor]
) -> "Tape | CudaGraph":  # fmt: skip
    """The record of what `run` computes: a CUDA graph or a tape. changing, known: as `Tape` takes them.

    engine: the `Graphs`. model: whose linear maps of a few rows are known.
    """

    def few() -> tuple[Tensor, ...]:
        with engine.few_rows(model):
            return run()

    with told():
        return CudaGraph(run, changing, known) if changing[0].is_cuda else Tape(few, changing, known, engine.scratch)


def cause(error: Exception) -> str:
    """Why a pass could not be recorded, in one line."""
    if isinstance(error, CannotRecord):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def hand_over(carriers: Sequence[Carrier], counts: Sequence[int], taken: Sequence[Tensor]) -> None:
    """Give each carrier as many of the tensors as it took."""
    place = 0
    for carrier, count in zip(carriers, counts, strict=True):
        carrier.take(tuple(taken[place : place + count]))
        place += count


def told() -> Any:
    """Lets transformers know that the pass is being recorded, so that it decides nothing by the numbers in a tensor."""
    return patch.object(import_utils, "is_cuda_stream_capturing", lambda: True)
