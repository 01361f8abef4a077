"""The cells of a sweep: every head at every exit with every γ and stop_below, and the draft that each needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fastvlm_bench.drafts.manifest import HEAD_LAYERS, Manifest, choose_draft, read_manifests
from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.method_spec import EXIT_LAYER, GAMMA, RAW, STOP_BELOW
from fastvlm_bench.models.names import layer_count
from fastvlm_bench.sweeping.ranges import read_range

MOST_CELLS = 128
DEFAULT_GAMMA, DEFAULT_STOP = "2,4,8,12", "0,0.5"


def cell_method(head: str, exit_layer: int, gamma: int, stop_below: float) -> str:
    """A cell as one would type it after -m. head: `RAW` for the raw exit."""
    method = "layerskip:" if head == RAW else f"fastvlm:head={head},"
    return f"{method}exit_layer={exit_layer},gamma={gamma},stop_below={stop_below:g}"


@dataclass(frozen=True)
class Grid:
    """What is swept. heads: (head, exit layer) that there are drafts for, in rising order of exits."""

    heads: tuple[tuple[str, int], ...]
    gammas: tuple[int, ...]
    stops: tuple[float, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The label of each cell, as one would type it after -m."""
        cells = product(self.heads, self.stops, self.gammas)
        return tuple(cell_method(head, layer, gamma, stop) for (head, layer), stop, gamma in cells)

    def as_dict(self) -> dict[str, list[str] | list[int] | list[float]]:
        """As run.json has it."""
        return {
            "head": list(dict.fromkeys(head for head, _ in self.heads)),
            "exit_layer": sorted({layer for _, layer in self.heads}),
            "gamma": list(self.gammas), "stop_below": list(self.stops),
        }  # fmt: skip


def make_grid(
    *, model: str, drafts: Path | None, suite: str, exit_layer: str | None, head: Sequence[str], gamma: str, stop: str,
) -> Grid:  # fmt: skip
    """Read what was typed and find a draft for every head and exit. UsageError where one lacks, or for too many cells.

    drafts: a draft folder or a folder of them; None where the model has none. exit_layer None: every exit at which
    there is a draft with a wanted head. head: [] takes, at each exit, the head that `run` would take. suite: for the
    command that trains what lacks.
    """
    gammas = tuple(int(value) for value in read_range("--gamma", gamma, GAMMA))
    stops = tuple(float(value) for value in read_range("--stop", stop, STOP_BELOW))
    check_heads(head)
    if drafts is None and (not head or any(name != RAW for name in head)):
        train = f"fastvlm-bench train --model {model} --suite {suite} --out DIR"
        raise UsageError(f"model '{model}' comes without a draft: give one with --draft FOLDER, train one ({train}), "
                         f"or sweep raw exits with --head {RAW}")  # fmt: skip
    there = own_drafts(drafts)
    layers = layer_count(model) or next((m.target_layers for m in there.values()), None)
    exits = _exits(exit_layer, head, there, layers, model)
    kinds = list(dict.fromkeys(head))
    pairs = [(name, layer) for layer in exits for name in kinds or [_usual(drafts, there, layer, model)]]
    for name, layer in pairs:
        if name != RAW and not any((m.head, m.exit_layer) == (name, layer) for m in there.values()):
            raise UsageError(lacking(name, layer, there, drafts, model, suite))
    grid = Grid(tuple(pairs), gammas, stops)
    if (count := len(grid.methods)) > MOST_CELLS:
        raise UsageError(f"{len(pairs)} exits and heads x {len(gammas)} γ x {len(stops)} thresholds are {count} cells, "
                         f"and a sweep takes at most {MOST_CELLS}; give fewer values or wider steps")  # fmt: skip
    return grid


def check_heads(names: Sequence[str]) -> None:
    """UsageError for a kind of head that there is not."""
    for name in names:
        if name not in (known := (*HEAD_LAYERS, RAW)):
            raise UsageError(f"unknown head '{name}'{did_you_mean(name, known)}; --head is one of {', '.join(known)}")


def own_drafts(drafts: Path | None) -> dict[Path, Manifest]:
    """Below a folder, the drafts that `fastvlm` decodes with."""
    manifests = {} if drafts is None else read_manifests(drafts)
    return {folder: manifest for folder, manifest in manifests.items() if manifest.head in HEAD_LAYERS}


def _exits(
    typed: str | None, head: Sequence[str], there: dict[Path, Manifest], layers: int | None, model: str
) -> list[int]:
    if typed is None:
        found = sorted({m.exit_layer for m in there.values() if not head or m.head in head or RAW in head})
        if not found:
            raise UsageError(f"--exit-layer is missing, and no draft tells one; give layers of model '{model}', as in "
                             "--exit-layer 2,4,8")  # fmt: skip
        return found
    found = [int(value) for value in read_range("--exit-layer", typed, EXIT_LAYER)]
    if layers is not None and found[-1] >= layers:
        raise UsageError(f"--exit-layer has {found[-1]}, which is not within 1 .. {layers - 1} of model '{model}'")
    return found


def _usual(drafts: Path | None, there: dict[Path, Manifest], layer: int, model: str) -> str:
    """The head that `run` takes at this exit; "" where there is none."""
    if not any(m.exit_layer == layer for m in there.values()):
        return ""
    folder = choose_draft(drafts, head=None, exit_layer=layer, model=model)
    return there[folder].head


def lacking(head: str, layer: int, there: dict[Path, Manifest], drafts: Path | None, model: str, suite: str) -> str:
    """What to say where no draft has a head at an exit: what there is, and the command that trains it."""
    has = ", ".join(sorted({f"{m.head} at {m.exit_layer}" for m in there.values()})) or "none"
    kind = head or next(iter(m.head for m in there.values()), "mlp")
    train = (f"fastvlm-bench train --model {model} --suite {suite} --head {kind} --exit-layer {layer} "
             f"--out DIR/{kind}-exit{layer}")  # fmt: skip
    what, where = f"the head {head}" if head else "a head", f"under {drafts}: {has}"
    where = where if drafts is not None else f"model '{model}' comes without a draft, and no --draft was given"
    return f"no draft has {what} at exit {layer} ({where}); leave it out, or train one: {train}"
