"""The exits and heads that are looked at, and the draft folder of each. Without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastvlm_bench.drafts.manifest import HEAD_LAYERS, choose_draft
from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import EXIT_LAYER
from fastvlm_bench.sweeping.grid import RAW, check_heads, lacking, own_drafts
from fastvlm_bench.sweeping.ranges import read_range

ALL = "all"


@dataclass(frozen=True)
class Source:
    """Where guesses come from: the raw exit (`RAW`), or a trained head at it, with its folder."""

    exit_layer: int
    head: str
    folder: Path | None = None

    @property
    def name(self) -> str:
        """In tables and files: "exit 2 mlp"."""
        return f"exit {self.exit_layer} {self.head}"


def choose_sources(
    *, model: str, layers: int, drafts: Path | None, suite: str, exit_layer: str | None, head: Sequence[str],
) -> list[Source]:  # fmt: skip
    """The sources that were asked for, in rising order of exits, the raw exit first.

    layers: of the target. drafts: a draft folder or a folder of them; None where there is none. exit_layer: as typed;
    None or `ALL` is every exit. head: [] is the raw exit and every draft. suite: for the command that trains what
    lacks. UsageError for an exit beyond the model, an unknown head, and a head that no draft has at a typed exit.
    """
    check_heads(head)
    there = own_drafts(drafts)
    every = exit_layer is None or exit_layer.strip() == ALL
    exits = list(range(1, layers))
    if not every:
        exits = [int(number) for number in read_range("--exit-layer", exit_layer or "", EXIT_LAYER)]
    if exits and exits[-1] >= layers:
        raise UsageError(f"--exit-layer has {exits[-1]}, which is not within 1 .. {layers - 1} of model '{model}'")
    pairs = {(m.head, m.exit_layer) for m in there.values()}
    found = [Source(layer, RAW) for layer in exits] if not head or RAW in head else []
    for layer in exits:
        for name in HEAD_LAYERS if not head else dict.fromkeys(head):
            if name == RAW:
                continue
            if (name, layer) in pairs:
                folder = choose_draft(drafts, head=name, exit_layer=layer, model=model)
                found.append(Source(layer, name, folder))
            elif head and (not every or not any(name == own for own, _ in pairs)):
                wanted = layer if not every else max(layers // 6, 1)
                raise UsageError(lacking(name, wanted, there, drafts, model, suite))
    return sorted(found, key=lambda source: (source.exit_layer, source.head != RAW))
