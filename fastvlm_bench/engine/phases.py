"""Where one generation's time goes, told by hooks around the model's own forward passes: `run --phases`.

On a GPU the marks are events in the device's queue of work, read after one synchronisation at the sample's end: nothing
waits in between. A pass counts as drafting or verifying by the state of the method's layer gate.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.machine.clock import Clock


class Phases:
    """`with Phases(...).watched(): ...`, then `seconds()` once the clock has synchronised."""

    def __init__(self, clock: Clock, method: Any, model: nn.Module, vision: nn.Module | None) -> None:
        self.clock, self.method, self.model, self.vision = clock, method, model, vision
        self._spans: list[tuple[str, Any, Any, bool]] = []  # the last: within the model's own pass
        self._open: list[tuple[str, Any]] = []
        self._whole: list[Any] = []

    @contextmanager
    def watched(self) -> Iterator["Phases"]:
        """Hooks on the model and its image encoder, for one generation."""
        with ExitStack() as hooks:
            for module, name in ((self.model, None), (self.vision, "vision")):
                if module is not None:
                    before = module.register_forward_pre_hook(lambda *_, name=name: self._begin(name or self._phase()))
                    hooks.callback(before.remove)
                    hooks.callback(module.register_forward_hook(lambda *_: self._end()).remove)
            self._whole.append(self.clock.stamp())
            yield self
            self._whole.append(self.clock.stamp())

    def seconds(self) -> dict[str, float | None]:
        """vision_s (None: not told apart), prefill_s, draft_s, verify_s inside the model, and other_s: all the rest."""
        found = dict.fromkeys(("vision", "prefill", "draft", "verify"), 0.0)
        for name, first, second, within in self._spans:
            found[name] += (took := self.clock.between(first, second))
            if within:  # encoded inside the first pass, not, as `generate` does for some models, before it
                found["prefill"] -= took
        other = self.clock.between(*self._whole) - sum(found.values())
        told: dict[str, float | None] = {f"{name}_s": value for name, value in found.items()}
        if not any(name == "vision" for name, *_ in self._spans):
            told["vision_s"] = None
        return {**told, "other_s": other}

    def _phase(self) -> str:
        if not any(name == "prefill" for name, *_ in self._spans):
            return "prefill"
        gate = getattr(self.method, "gate", None)
        return "draft" if gate is not None and gate.mode is Mode.DRAFT else "verify"

    def _begin(self, name: str) -> None:
        self._open.append((name, self.clock.stamp()))

    def _end(self) -> None:
        name, first = self._open.pop()
        self._spans.append((name, first, self.clock.stamp(), bool(self._open)))
