"""How the passes of the target run: `eager`, as transformers writes them, or as `graphs` (graphs.py).

A method says what a pass reads and in which mode; the engine runs it. Both give the same tokens. The reference and all
methods of a run have the same engine, so that none gets what another has not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from fastvlm_bench.models.compiled import Compiled, graphs_compiled

LATE = 0.1
"""Where more generations than this share were decoded once more, a warning says so."""


class Carrier(Protocol):
    """Something that hands tensors from pass to pass beside the model's own inputs and outputs, as a layer gate does.

    A recorded pass finds its tensors in fixed places. So what it reads is copied there (`given`), while it is recorded
    the carrier uses these places (`give`), and what it leaves (`taken`) is handed over after each repetition (`take`).
    `undo`: the pass that `give` prepared failed; nothing of it is kept.
    """

    def given(self) -> tuple[Tensor, ...]: ...
    def give(self, fixed: tuple[Tensor, ...]) -> None: ...
    def undo(self) -> None: ...
    def taken(self) -> tuple[Tensor, ...]: ...
    def take(self, found: tuple[Tensor, ...]) -> None: ...


class Watcher:
    """A `Carrier` of what it saw in a pass, and gives to none."""

    def given(self) -> tuple[Tensor, ...]:
        return ()

    def give(self, fixed: tuple[Tensor, ...]) -> None:
        """Nothing: a pass reads nothing of it."""

    def undo(self) -> None:
        """Nothing: the next pass overwrites what was seen."""


class Eager:
    """Every pass is a call of the model with the arguments that transformers prepares."""

    name = "eager"
    watching: Any = None
    recorded = late = 0  # how many passes were recorded, and how many of them after the warm-up
    measured = repeated = 0  # how many generations after the warm-up, and how many of them were decoded once more
    _measures = False
    reasons: Mapping[str, None] = {}  # why another engine decoded instead
    parts: Compiled | None = None  # what `--compile` compiled

    @property
    def made_so_far(self) -> int:
        """How many passes were recorded, and graphs compiled: a generation in which one was made is timed again."""
        return self.recorded + (graphs_compiled() if self.parts else 0)

    def refusal(self, method: Any) -> str | None:
        """Why another engine decodes this method, as far as is known; None where none does."""
        return None

    def described(self) -> dict[str, Any]:
        """What run.json says of it, beside its name."""
        return {}

    def notices(self) -> list[dict[str, str]]:
        """Warnings for run.json."""
        if self.repeated <= LATE * self.measured:
            return []
        return [{"name": "RecordedLate", "message": f"{self.late} kinds of pass ran for the first time among the "
                 f"measured samples, so that {self.repeated} of {self.measured} outputs were decoded once more; warm "
                 "up longer"}]  # fmt: skip

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """The time after the warm-up: what is recorded in it is late."""
        made, self._measures = self.made_so_far, True
        try:
            yield
        finally:
            self.late += self.made_so_far - made
            self._measures = False

    def decoded(self, again: bool) -> None:
        """A generation has ended. again: it was decoded once more, since something was recorded meanwhile."""
        self.measured += self._measures
        self.repeated += self._measures and again

    def beside(self, method: Any) -> dict[int, Any]:
        """What the method's drafter has recorded beside the target's passes, by the number of slots."""
        return {}

    def take_over(self, session: Any, method: Any) -> None:
        """Called when the prompt has been read: the passes that follow are the engine's."""

    @contextmanager
    def watched(self, phases: Any) -> Iterator[None]:
        """The time in which `phases` is told of passes that do not call the model: `pass_began`, `pass_ended`."""
        self.watching = phases
        try:
            yield
        finally:
            self.watching = None
