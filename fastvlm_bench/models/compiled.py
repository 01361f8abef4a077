"""`--compile`: torch compiles the parts of layers that see each position alone, norms and feed-forward networks.

Such a part is a few matrix products with many small operations around them, and reads nothing but its input, so that
one compilation serves every layer, every method and every number of tokens. Attention stays as transformers has it: it
reads caches that grow, are rolled back, or have slots. (Regional compilation, as PyTorch's guides recommend it.)
"""

import inspect
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers

TRIED = (1, 2, 3)
"""Numbers of tokens that each part computes before anything is measured: a pass of one token has code of its own."""


@dataclass
class Compiled:
    """classes: what was compiled, by the names of its classes. modules: how many. left_out: class -> torch's reason.
    seconds: of the first compilation, on three inputs."""

    classes: list[str] = field(default_factory=list)
    modules: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def described(self) -> dict[str, Any]:
        """Its entry in run.json."""
        return {"modules": self.modules, "graphs": graphs_compiled(), "compile_s": self.seconds,
                "left_out": dict(self.left_out)}  # fmt: skip


def compile_parts(model: Any, heads: Iterable[nn.Module] = ()) -> Compiled:
    """Let torch compile the parts of the model's decoder layers, and like parts of the drafts' heads.

    heads: imitation heads, which may hold copies of such layers; a draft gets what the target gets. Each class of part
    is tried once; one that torch cannot compile as a whole stays as it is. UsageError where it can compile none.
    """
    began, found = time.perf_counter(), Compiled()
    own = [part for layer in decoder_layers(model) for part in parts(layer)]
    kinds = {type(part) for part in own}
    drafting = [part for head in heads for part in head.modules() if type(part) in kinds]
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        alike, quicker = [part for part in own if type(part) is kind], _compiled(kind)
        if reason := _failure(alike[0], quicker, model):
            found.left_out[kind.__name__] = reason
            continue
        alike += [part for part in drafting if type(part) is kind]
        for part in alike:
            part.__class__ = quicker
        found.classes.append(kind.__name__)
        found.modules += len(alike)
    found.seconds = time.perf_counter() - began
    if not found.classes:
        why = next(iter(found.left_out.values()), "its layers have no such parts")
        raise UsageError(f"--compile: torch compiles no part of {type(model).__name__}'s layers ({why}); leave it out")
    return found


def parts(layer: nn.Module) -> Iterator[nn.Module]:
    """The children of a decoder layer that take one tensor and nothing else. torch's own are single kernels already."""
    for child in layer.children():
        taken = inspect.signature(child.forward).parameters.values()
        needed = [one for one in taken if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
        if len(needed) == len(taken) == 1 and not type(child).__module__.startswith("torch."):
            yield child


def _compiled(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class with its `forward` compiled, once for all modules of it.

    Not the call of a module, which looks for `forward` anew: methods that skip parts of the layers put another one in
    front of it for a while, and hooks run around it. Neither is to be compiled.
    """
    forward = torch.compile(kind.forward, dynamic=True, fullgraph=True)
    names = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names)


def _failure(part: nn.Module, quicker: type[nn.Module], model: Any) -> str | None:
    """Run one part by its compiled class on passes of a few tokens. The reason, in a line, where that fails."""
    width = model.config.get_text_config(decoder=True).hidden_size
    weight = next(iter(part.parameters()), next(iter(model.parameters())))
    plain, part.__class__ = type(part), quicker
    try:
        with torch.no_grad():
            for count in TRIED:
                part(torch.zeros(1, count, width, dtype=model.dtype, device=weight.device))
    except Exception as error:  # a missing compiler, code that torch cannot follow: it raises whatever it has
        return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:160]}"
    finally:
        part.__class__ = plain
    return None


def graphs_compiled() -> int:
    """How many graphs torch has compiled in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # to import it takes a second, and nothing else would need it
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
