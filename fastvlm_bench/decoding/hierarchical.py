"""Hierarchical speculative decoding (arXiv 2510.19705) with exits of one model: each checks the one below it.

The lowest exit drafts, the next one checks its drafts and adds a token of its own, and so on; the target checks last.
All share hidden states and KV: from exit e to exit f a check runs the layers between them, and nothing twice.
Acceptance is that of `engine/accept.py` at every level, so the output is the target's own, greedily and sampled.

    model.generate(**inputs, custom_generate=Hierarchical([Draft(1, head), Draft(4, None)], each="3", gamma=8))
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers.cache_utils import DynamicLayer

from fastvlm_bench.drafters.levels import Levels
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.manifest import choose_draft, read_manifests
from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.engine import Carrier
from fastvlm_bench.engine.gate_carrier import LevelCarrier
from fastvlm_bench.engine.level_gate import LevelGate
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import HEADS_OR_RAW, MAX_GAMMA, RAW, STOP_BELOW, MethodKind, Option
from fastvlm_bench.models.layers import decoder_layers
from fastvlm_bench.models.load import Target
from fastvlm_bench.records.trace import Round

METHOD = MethodKind(
    "drafts with a hierarchy of exits, each of which checks the one below", lossless=True, group="ours",
    options={
        "levels": Option(str, None, "exits from the lowest up, as 1+4", joined=True, needed=True),
        "each": Option(str, "4", "tokens a level adds before the next checks them, for all or as 4+8", joined=True),
        "gamma": Option(int, 10, "tokens of the last level before the target checks them", low=1, high=MAX_GAMMA),
        "head": Option(str, None, "kind of head, for all or as raw+mlp; by default each exit's best draft, or raw",
                       choices=HEADS_OR_RAW, joined=True),
        "stop_below": STOP_BELOW,
    },
)  # fmt: skip
KINDS = tuple(kind for kind in HEADS_OR_RAW if kind not in (RAW, "eagle"))
"""Heads that can check several tokens in one pass."""


class Hierarchical(Method):
    """A decoding method, to be passed to `generate` as `custom_generate`. Afterwards `last` holds the trace.

    levels: the exits with their heads, from the lowest up; or as typed, "1+4", with the drafts below `drafts` that
    stand there, of the kind `head` ("raw+mlp"), for the model of `target`. each: how many tokens each level but the
    last adds before the next one checks them. gamma: how many the last one holds before the target checks them, or a
    few more.
    stop_below: as for `fastvlm`, at each level. For single sequences. UsageError for levels that the model has not.
    """

    takes_batches = False

    def __init__(
        self, levels: str | Sequence[Draft], *, each: str = "4", gamma: int = 10, head: str | None = None,
        stop_below: float = 0.0, drafts: Path | None = None, target: Target | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        if gamma < 1 or not 0.0 <= stop_below < 1.0:
            raise ValueError(f"gamma must be at least 1 and stop_below within 0 .. 1, not {gamma} and {stop_below}")
        super().__init__(clock=clock)
        if isinstance(levels, str):
            if target is None:
                raise ValueError("levels in words need a target; give drafts")
            exits = [int(number) for number in levels.split("+")]
            levels = levels_of(exits, head.split("+") if head else [], drafts, target)
        self.levels: Sequence[Draft] = levels
        self.gamma, self.stop_below = gamma, stop_below
        numbers = [int(number) for number in each.split("+")]
        steps = len(levels) - 1
        self.each = numbers * steps if len(numbers) == 1 else numbers
        if len(self.each) != steps or any(number < 1 for number in self.each):
            raise UsageError(f"each={each} must be one number of at least 1, or one for each of the {steps} levels "
                             "below the last, joined by +")  # fmt: skip

    def around(self, model: Any) -> AbstractContextManager[Any]:
        for draft in self.levels:
            draft.check_shape(model)
        self.gate = LevelGate(decoder_layers(model), self.levels)
        return self.gate.installed()

    def carriers(self) -> list[Carrier]:
        return [LevelCarrier(self.gate)] if isinstance(self.gate, LevelGate) else []

    def begin(self, session: Session) -> None:
        kinds = {type(one) for i, one in enumerate(text_cache(session.cache).layers) if i not in session.fixed}
        if other := kinds - {DynamicLayer}:
            raise UsageError(f"{type(session.model).__name__} has a cache of {min(kind.__name__ for kind in other)}s, "
                             "which cannot be rolled back at each level; use fastvlm")  # fmt: skip
        session.record_past()

    def round(self, session: Session) -> list[Round]:
        gate = session.gate
        assert isinstance(gate, LevelGate)
        halves = self.clock.halves()
        levels = Levels(session, gate, self.stop_below)
        levels.fill(len(self.levels) - 1, self.gamma, self.each)
        halves.drafted()
        outputs, drafts = levels.verify()
        accepted, standing = session.accept(drafts, outputs.logits)
        seconds = halves.seconds()
        emitted = session.emit(standing)
        session.keep(outputs, standing, ran=levels.read)
        (own,) = drafts.rounds(accepted, emitted, *seconds)
        own.levels = [tuple(count) for count in levels.counts]
        return [own]

    @property
    def drafter(self) -> dict[str, Any] | None:
        told = [{"exit_layer": draft.exit_layer, "head": draft.manifest.head if draft.manifest else RAW,
                 "checksum": draft.manifest.checksum if draft.manifest else ""} for draft in self.levels]  # fmt: skip
        if all(level["head"] == RAW for level in told):
            return None
        name = "+".join(f"{level['head']}-exit{level['exit_layer']}" for level in told)
        return {"kind": "hierarchy", "name": name, "levels": told}

    @property
    def weight_bytes(self) -> int:
        return sum(draft.weight_bytes for draft in self.levels)


def levels_of(exits: Sequence[int], heads: Sequence[str], drafts: Path | None, target: Target) -> list[Draft]:
    """The drafts at these exits. heads: of each, or of all; [] for the best draft there, or raw where there is none.

    UsageError where the exits do not rise within the model, or a head is lacking.
    """
    last = len(target.layers) - 1
    if sorted(set(exits)) != list(exits) or not 1 <= exits[0] <= exits[-1] <= last:
        raise UsageError(f"levels={'+'.join(map(str, exits))} must be exits that rise within 1 .. {last} of "
                         f"{target.id}, as 1+{max(last // 3, 2)}")  # fmt: skip
    if len(heads) > 1 and len(heads) != len(exits):
        raise UsageError(f"head={'+'.join(heads)} must be one kind, or one for each of the {len(exits)} levels")
    own = read_manifests(drafts).values() if drafts is not None else ()
    there = {manifest.exit_layer for manifest in own if manifest.head in KINDS}
    found = []
    for place, layer in enumerate(exits):
        head = heads[place % len(heads)] if heads else None
        if head == RAW or (head is None and layer not in there):
            found.append(Draft(layer, None))
        else:
            folder = choose_draft(drafts, head=head, exit_layer=layer, model=target.id, kinds=KINDS)
            found.append(Draft.load(folder, target.model))
    return found
