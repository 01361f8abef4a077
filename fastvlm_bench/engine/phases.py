"""Where the time of one generation goes (`run --phases`), measured by hooks around the model's own forward passes.

On a GPU the hooks put events into the device's queue. They are read after one synchronisation at the sample's end, so
nothing waits in between. The first pass is the prefill; a later one drafts if the method says that it is `drafting`,
and else verifies. A model of its own that drafts is watched, too: what it reads before the target's first pass is part
of the prefill, with its image encoder.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from fastvlm_bench.machine.clock import Clock


class Phases:
    """`with Phases(...).watched(): ...`, then `seconds()` once the clock has synchronised."""

    def __init__(self, clock: Clock, method: Any, model: nn.Module, vision: nn.Module | None) -> None:
        self.clock, self.method, self.model, self.vision = clock, method, model, vision
        self._spans: list[tuple[str, Any, Any, bool]] = []  # phase, begin, end, within the model's pass
        self._open: list[tuple[str, Any]] = []
        self._whole: list[Any] = []
        self._prefilled = False  # whether the target's first pass has begun

    @contextmanager
    def watched(self) -> Iterator["Phases"]:
        """Watch one generation by hooks on the model and its image encoder."""
        with ExitStack() as hooks:
            if (engine := getattr(self.method, "engine", None)) is not None:
                hooks.enter_context(engine.watched(self))
            named = (
                (self.model, self._phase),
                (self.vision, lambda: "vision"),
                (getattr(self.method, "helper", None), self._helper_phase),
            )
            for module, phase in named:
                if module is not None:
                    before = module.register_forward_pre_hook(lambda *_, phase=phase: self._begin(phase()))
                    hooks.callback(before.remove)
                    hooks.callback(module.register_forward_hook(lambda *_: self._end()).remove)
            self._whole.append(self.clock.stamp())
            yield self
            self.end()

    def end(self) -> None:
        """The method has its last token. What follows is in no phase. A second call changes nothing."""
        if len(self._whole) == 1:
            self._whole.append(self.clock.stamp())

    def seconds(self) -> dict[str, float | None]:
        """The seconds of each phase: vision_s, prefill_s, draft_s and verify_s inside the model, other_s for the rest.

        vision_s is None where no image encoder was seen at work; its time is then part of another phase.
        """
        found = dict.fromkeys(("vision", "prefill", "draft", "verify"), 0.0)
        for name, first, second, within in self._spans:
            found[name] += (took := self.clock.between(first, second))
            if within:  # the image was encoded inside the prefill's pass; for some models `generate` does it before
                found["prefill"] -= took
        other = self.clock.between(*self._whole) - sum(found.values())
        told: dict[str, float | None] = {f"{name}_s": value for name, value in found.items()}
        if not any(name == "vision" for name, *_ in self._spans):
            told["vision_s"] = None
        return {**told, "other_s": other}

    def _phase(self) -> str:
        if not self._prefilled:
            self._prefilled = True
            return "prefill"
        return "draft" if getattr(self.method, "drafting", False) else "verify"

    def _helper_phase(self) -> str:
        return "draft" if self._prefilled else "prefill"

    def pass_began(self, model: nn.Module) -> None:
        """A recorded pass of this model begins, which calls no module. `pass_ended` must follow."""
        self._begin(self._phase() if model is self.model else self._helper_phase())

    def pass_ended(self) -> None:
        self._end()

    def _begin(self, name: str) -> None:
        self._open.append((name, self.clock.stamp()))

    def _end(self) -> None:
        name, first = self._open.pop()
        self._spans.append((name, first, self.clock.stamp(), bool(self._open)))
