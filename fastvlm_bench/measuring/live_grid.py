"""The grid that `sweep` shows while it measures: the estimate of every cell so far, below the bar."""

import math
from collections.abc import Iterable, Mapping

from rich.console import RenderableType
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from fastvlm_bench.method_spec import MethodSpec


class GridProgress(Progress):
    """Bars, and below them the grid of the suite that is being measured. logs: method -> mean log ratio so far."""

    logs: Mapping[str, float] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.logs:
            yield grid(self.logs)


def grid(logs: Mapping[str, float]) -> Table:
    """Decode speed-ups so far: exit, head and threshold down, γ across; the highest is bold."""
    cells: dict[str, dict[int, float]] = {}
    for label, own in logs.items():
        options = MethodSpec.parse(label).options
        if not {"exit_layer", "gamma", "stop_below"} <= options.keys():
            continue
        name = f"exit {options['exit_layer']} {options.get('head', 'raw')} stop {options['stop_below']:g}"
        cells.setdefault(name, {})[int(options["gamma"])] = math.exp(own)
    best = max((value for row in cells.values() for value in row.values()), default=0.0)
    gammas = sorted({gamma for row in cells.values() for gamma in row})
    table = Table("", *(f"γ {gamma}" for gamma in gammas), box=None, pad_edge=False, header_style="dim")
    for name in sorted(cells):
        shown = [cells[name].get(gamma) for gamma in gammas]
        table.add_row(name, *(Text("" if value is None else f"{value:.2f}", style="bold" if value == best else "")
                              for value in shown))  # fmt: skip
    return table
