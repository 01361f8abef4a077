"""Records the operations of one pass and repeats them without any Python of the model: a graph of passes for the CPU.

What a CUDA graph is on a GPU, this is on a CPU. While a pass runs, PyTorch's dispatcher names each operation; all
tensors that it made are kept, so that each has its place in memory for good. To repeat the pass is to run the same
operations on the same places. So no module is called, no mask is made anew by Python, views cost nothing, and what
depends on weights alone is not computed again. No architecture is known here, and no number is computed differently:
the record is repeated once and must give the same bits, else there is none.

A pass that reads a number from a tensor, or whose shapes depend on numbers, cannot be repeated: `CannotRecord`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastvlm_bench.engine.scratch import Call, Scratch, place, tensors

aten = torch.ops.aten
Step = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
COPIES = (aten.clone.default, aten.contiguous.default, aten.to.dtype, aten._to_copy.default, aten.reshape.default)
"""Operations that return what they were given, in another place, shape or type."""


class CannotRecord(Exception):
    """Says which operation of a pass cannot be repeated, and why."""


class Tape:
    """The operations of one call of `run`. outputs: what it returned, in tensors that `replay` writes anew.

    changing: the tensors that `run` reads and that others write between two calls, and those that it writes itself.
    weights: what stays as it is. It may read nothing else but what it makes. scratch: where it makes what nobody reads
    between two calls. nbytes: of its outputs, and by how much the scratch has grown.
    CannotRecord where a repetition would not be the same.
    """

    def __init__(
        self, run: Callable[[], tuple[Tensor, ...]], changing: Iterable[Tensor], weights: Iterable[Tensor],
        scratch: Scratch,
    ) -> None:  # fmt: skip
        recorder, before = _Recorder(changing, weights), scratch.nbytes
        with torch.inference_mode():
            with recorder:
                self.outputs = run()
            known = [output.clone() for output in self.outputs]
            made = {place(one) for call in recorder.calls for one in tensors(call[3])} & recorder.made
            calls = scratch.lay_out(recorder.calls, made - {place(one) for one in self.outputs})
            for write in (_written_directly, _written_by_a_copy):
                self._steps = _steps(calls, write)
                self.replay()
                if all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(known, self.outputs, strict=True)):
                    break
            else:
                raise CannotRecord("its operations, repeated, do not give the same numbers")
        own = {place(one): one.untyped_storage().nbytes() for one in tensors(self.outputs)}
        self.nbytes = sum(own.values()) + scratch.nbytes - before

    def replay(self) -> None:
        """Do all of it again, with what stands in the changing tensors now."""
        for do, args, kwargs in self._steps:
            do(*args, **kwargs)

    def __len__(self) -> int:
        return len(self._steps)


def check_repeatable(
    run: Callable[[], tuple[Tensor, ...]], changing: Iterable[Tensor], weights: Iterable[Tensor]
) -> tuple[Tensor, ...]:  # fmt: skip
    """What `run` returns. CannotRecord where it does what a repetition could not do in the same way."""
    with _Recorder(changing, weights):
        return run()


class _Recorder(TorchDispatchMode):
    """calls: (operation, arguments, results) of all that must be done again. made: the places of what was made."""

    def __init__(self, changing: Iterable[Tensor], weights: Iterable[Tensor]) -> None:
        super().__init__()
        self._weights = {place(tensor) for tensor in weights}
        self.made: set[int] = set()
        self.calls: list[Call] = []
        self._changing = {place(tensor) for tensor in changing}
        self._constant: list[Call] = []
        self._alive: list[Any] = []  # so that no two results get the same place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._alive.append((given, made))
        if func is aten.lift_fresh.default:  # a tensor made of Python's numbers, which are the same each time
            self.made |= {place(tensor) for tensor in given}
        for tensor in given:
            if all(place(tensor) not in known for known in (self._changing, self._weights, self.made)):
                raise CannotRecord(f"{func} reads a tensor that is no weight and is not made by the pass")
        self.made |= {place(tensor) for tensor in made} - {place(tensor) for tensor in given}
        changes = any(place(tensor) in self._changing for tensor in given)
        if func._schema.is_mutable:
            self._write(func, args, kwargs, result, changes, given)
            return result
        places = {place(tensor) for tensor in given}
        if made and all(place(tensor) in places for tensor in made):
            return result  # a view: it is where it is
        if not changes and torch.Tag.nondeterministic_seeded not in func.tags:
            self._constant.append((func, args, kwargs, result))
            return result
        if not made or _depends(func, args):
            raise CannotRecord(f"{func} depends on the numbers in a tensor")
        self._do_again(func, args, kwargs, result)
        return result

    def _write(
        self, func: Any, args: Any, kwargs: Any, result: Any, changes: bool, given: list[Tensor]
    ) -> None:  # fmt: skip
        """An operation that writes to its arguments. What it writes to must be made anew each time, too."""
        schema = func._schema.arguments
        named = {**dict(zip((each.name for each in schema), args, strict=False)), **kwargs}
        written = {
            place(leaf) for each in schema if each.alias_info is not None and each.alias_info.is_write
            for leaf in tree_leaves(named.get(each.name)) if isinstance(leaf, Tensor)
        }  # fmt: skip
        made_here = [call for call in self._constant if written & {place(t) for t in tensors(call[3])}]
        if not changes and made_here:  # a constant that is filled in steps
            self._constant.append((func, args, kwargs, result))
            return
        if not changes:
            raise CannotRecord(f"{func} writes to what the model keeps")
        for call in made_here:
            self._constant.remove(call)
            self._do_again(*call)
        self._do_again(func, args, kwargs, result)
        self._changing |= written

    def _do_again(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.calls.append((func, args, kwargs, result))
        self._changing |= {place(tensor) for tensor in tensors(result)}


def _depends(func: Any, args: Any) -> bool:
    """Whether the numbers in a tensor decide the shape of the result, as a mask of truth values does, and no index."""
    if func is aten.index.Tensor:
        return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
    return bool({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags))


def _steps(calls: list[Call], write: Callable[..., list[Step] | None]) -> list[Step]:
    steps, masks = list[Step](), dict[int, Tensor]()
    for func, args, kwargs, result in calls:
        if func._schema.is_mutable:
            steps.append((func._op, args, kwargs))
            continue
        if write is _written_directly:
            args, more = _with_float_mask(func, args, masks)
            steps += more
        steps += write(func, args, kwargs, result) or _written_by_a_copy(func, args, kwargs, result)
    return steps


def _written_by_a_copy(func: Any, args: Any, kwargs: Any, result: Any) -> list[Step]:
    """Do it as it was done, and copy what it makes to where the others look for it."""
    own, do = tensors(result), func._op

    def again() -> None:
        for one, found in zip(own, tensors(do(*args, **kwargs)), strict=True):
            one.copy_(found)

    return [(again, (), {})]


def _written_directly(func: Any, args: Any, kwargs: Any, result: Any) -> list[Step] | None:
    """The same operation, that writes its result where the others look for it. None where there is none."""
    if not isinstance(result, Tensor):
        return None
    if func in COPIES:
        source = args[0]
        if result.shape == source.shape:
            return [(result.copy_, (source,), {})]
        return [(result.view(source.shape).copy_, (source,), {})] if result.is_contiguous() else None
    if func is aten.linear.default:
        return _matrix_product(args, kwargs, result)
    plain = getattr(torch, func._schema.name.removeprefix("aten::"), None)
    if func in PLAIN and plain is not None:  # the shortest way to the kernel
        return [(plain, args, {**kwargs, "out": result})]
    out = _out_variant(func)
    return None if out is None else [(out._op, args, {**kwargs, "out": result})]


PLAIN = frozenset({
    aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.neg.default, aten.rsqrt.default,
    aten.pow.Tensor_Scalar, aten.mean.dim, aten.cat.default, aten.mm.default, aten.where.self,
})  # fmt: skip


def _matrix_product(args: Any, kwargs: Any, result: Tensor) -> list[Step] | None:
    """A linear map as the matrix product that it is."""
    states, weight, *bias = args
    if not (states.is_contiguous() and result.is_contiguous() and weight.ndim == 2 and states.ndim >= 2) or kwargs:
        return None
    rows, out = states.view(-1, states.shape[-1]), result.view(-1, result.shape[-1])
    if bias and bias[0] is not None:
        return [(torch.addmm, (bias[0], rows, weight.t()), {"out": out})]
    return [(torch.mm, (rows, weight.t()), {"out": out})]


def _with_float_mask(func: Any, args: Any, masks: dict[int, Tensor]) -> tuple[Any, list[Step]]:
    """Attention adds a mask of floats. From one of truth values each layer would make the same floats again."""
    if func is not aten.scaled_dot_product_attention.default or len(args) < 4:
        return args, []
    mask, more = args[3], list[Step]()
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        return args, []
    if id(mask) not in masks:
        floats = torch.empty(mask.shape, dtype=args[0].dtype, device=mask.device)
        zero, never = floats.new_zeros(()), floats.new_full((), -torch.inf)
        more = [(torch.where, (mask, zero, never), {"out": floats})]
        masks[id(mask)] = floats
    return (*args[:3], masks[id(mask)], *args[4:]), more


def _out_variant(func: Any) -> Any:
    """The overload with the same arguments that writes to `out`; None if there is none."""
    own = [(each.name, str(each.type)) for each in func._schema.arguments]
    packet = func._overloadpacket
    for name in packet.overloads():
        other = getattr(packet, name)
        outs = [each for each in other._schema.arguments if each.is_out]
        rest = [(each.name, str(each.type)) for each in other._schema.arguments if not each.is_out]
        if len(outs) == 1 and outs[0].name == "out" and rest == own:
            return other
    return None
