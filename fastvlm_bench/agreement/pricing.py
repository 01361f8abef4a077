"""What drafting and verifying cost at every exit, as shares of a standard pass.

Raw exits differ only in how many layers run, so a few are timed and those between are interpolated. Each trained head
is timed itself.
"""

from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from fastvlm_bench.agreement.sources import Source
from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.models.load import Target
from fastvlm_bench.sweeping.grid import RAW
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.costs import measure_costs

TIMED = 4
"""How many raw exits are timed, the first and the last among them."""


class Prices:
    """The costs of every source. raw: of the exits that were timed."""

    def __init__(
        self, layers: int, standard_s: float, raw: dict[int, PassCosts], heads: dict[Source, PassCosts]
    ) -> None:
        self.layers, self.standard_s, self.heads = layers, standard_s, heads
        self.timed = sorted(raw)
        self.drafts = [raw[layer].draft_s / raw[layer].standard_s for layer in self.timed]
        self.verifications = [[s / raw[layer].standard_s for s in raw[layer].verify_s] for layer in self.timed]

    def of(self, source: Source) -> PassCosts:
        """The costs of a source in seconds."""
        return self.heads[source] if source.head != RAW else self.raw(source.exit_layer)

    def raw(self, exit_layer: int) -> PassCosts:
        """The costs of a raw exit in seconds, of a standard pass of `standard_s`."""
        draft = float(np.interp(exit_layer, self.timed, self.drafts))
        verify = [float(np.interp(exit_layer, self.timed, column)) for column in zip(*self.verifications, strict=True)]
        return PassCosts(self.standard_s, draft * self.standard_s, [share * self.standard_s for share in verify])


def timed_exits(layers: int) -> list[int]:
    """The raw exits that are timed."""
    return sorted({round(float(at)) for at in np.linspace(1, layers - 1, TIMED)})


def price(
    target: Target, drafts: dict[Source, Draft], example: Example, positions: int, stops: bool,
    report: Callable[[], None] = lambda: None,
) -> Prices:  # fmt: skip
    """Time the passes of some raw exits and of every trained head on one example. positions: most of a verification.

    stops: drafting also looks at its own confidence, which costs a softmax. report: called after each draft.
    """
    inputs, layers = example.inputs(target), len(target.layers)

    def costs(draft: Draft) -> PassCosts:
        found = measure_costs(target, inputs, example.answer, draft, positions=positions, stops=stops)
        report()
        return found

    raw = {layer: costs(Draft(layer, None)) for layer in timed_exits(layers)}
    heads = {source: costs(draft) for source, draft in drafts.items() if source.head != RAW}
    standard: Sequence[float] = [own.standard_s for own in (*raw.values(), *heads.values())]
    return Prices(layers, median(standard), raw, heads)
