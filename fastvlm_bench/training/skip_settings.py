"""The options of `skip-search`, which are those of `train` where they mean the same. No torch."""

from dataclasses import dataclass
from typing import Any

from fastvlm_bench.errors import UsageError
from fastvlm_bench.option_checks import whole
from fastvlm_bench.training.settings import TrainSettings


@dataclass(frozen=True)
class SkipSettings(TrainSettings):
    """As for `train`, where they mean the same. evaluations: how many sets are judged. budget: minutes, None for any.

    The budget ends the search between two generations; the same command then goes on where it was.
    """

    samples: int = 8
    held_out: int = 8
    refine_updates: int = 0
    evaluations: int = 200
    budget: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("evaluations", self.evaluations, 1, 10**6)
        if self.budget is not None and not 0 < self.budget < 10**6:
            raise UsageError(f"--budget is {self.budget}; it must be a number of minutes above 0")

    def learns(self) -> dict[str, Any]:
        # More evaluations go on with the same search, and minutes do not change what a generation finds.
        return {name: value for name, value in super().learns().items() if name not in ("evaluations", "budget")}
