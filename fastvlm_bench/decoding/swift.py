"""SWIFT (arXiv 2410.06916): drafts with sub-layers of the target skipped, and improves the set while it decodes.

It starts from a uniform set. From time to time another set reads the block that is about to be verified. Once the
target's tokens are known, it is seen which of the two sets would have drafted more of them. The better one stays.

What was learnt is kept from one generation to the next, until `reset`: so the time of a sample depends on the samples
before it, and its output does not.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fastvlm_bench.drafters.skip_drafting import SkipDrafting
from fastvlm_bench.drafters.skip_proposals import Chosen, Proposals
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import GAMMA, STOP_BELOW, MethodKind, Option

METHOD = MethodKind(
    "drafts with some of the target's attentions and MLPs skipped, and finds better ones while it decodes",
    lossless=True, group="baselines",
    options={
        "gamma": GAMMA,
        "stop_below": STOP_BELOW,
        "skip": Option(float, 0.45, "share of all attentions and MLPs that is skipped", low=0.01, below=1),
        "share": Option(float, 0.1, "share of the sub-layer passes that may go to trying other sets; 0 tries none",
                        low=0, below=1),
        "seed": Option(int, 0, "of the sets that are tried"),
    },
)  # fmt: skip

WINDOW = 32
"""Over how many tokens two sets are compared."""
HOPELESS = 4
"""A trial ends early once it is so many tokens behind."""
GOOD_ENOUGH, MOST_TRIALS, PATIENCE = 0.95, 1000, 300
"""Trying ends once the set drafts this share of the tokens, after so many trials, or so many without a better set."""
MODELLED_EVERY = 5
"""Every fifth trial comes from the model of what was seen."""


@dataclass
class Learning:
    """What is known of one target's sets: the best so far, the one on trial, and the work that was spent.

    work, spent: sub-layer passes, altogether and for trials alone. They stand for time, so that what is tried, and so
    every later draft, is the same on every machine.
    """

    proposals: Proposals
    count: int
    best: Chosen
    trial: Chosen | None = None
    right: int = 0  # tokens of the window that the trial would have drafted
    own: int = 0  # those that the best set did draft
    compared: int = 0
    trials: int = 0
    since_better: int = 0
    finished: bool = False
    work: int = 0
    spent: int = 0
    history: list[float] = field(default_factory=list)  # the share of the window drafted by the best set, per trial

    def next_trial(self) -> Chosen:
        """The set on trial; a new one where the last has been judged."""
        if self.trial is None:
            number, self.trials = self.trials, self.trials + 1
            if number % MODELLED_EVERY == MODELLED_EVERY - 1:
                self.trial = self.proposals.modelled(self.count)
            else:
                self.trial = self.proposals.near(self.best) if number % 2 else self.proposals.fresh(self.count)
            self.right = self.own = self.compared = 0
        return self.trial

    def tell(self, right: int, own: int, compared: int) -> None:
        """Add a round's tokens to the comparison, and judge the trial when enough are known."""
        self.right, self.own, self.compared = self.right + right, self.own + own, self.compared + compared
        if self.trial is None or (self.compared < WINDOW and self.own - self.right < HOPELESS):
            return
        self.proposals.learn(self.trial, self.right / self.compared)
        self.since_better += 1
        if self.right > self.own and self.compared >= WINDOW:
            self.best, self.since_better = self.trial, 0
        share = max(self.own, self.right if not self.since_better else 0) / self.compared
        self.history.append(share)
        self.trial = None
        self.finished = (
            self.compared >= WINDOW and share >= GOOD_ENOUGH
            or self.trials >= MOST_TRIALS or self.since_better >= PATIENCE
        )  # fmt: skip


class Swift(SkipDrafting):
    """skip: the share of the target's sub-layers that is skipped. share: of the work, for trying other sets.

    ValueError for values out of range.
    """

    def __init__(
        self, *, gamma: int = 10, stop_below: float = 0.0, skip: float = 0.45, share: float = 0.1, seed: int = 0,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, stop_below=stop_below, clock=clock)
        if not 0.0 < skip < 1.0 or not 0.0 <= share < 1.0:
            raise ValueError(f"skip and share must be within 0 .. 1, not {skip} and {share}")
        self.skip, self.share, self.seed = skip, share, seed
        self.learning: Learning | None = None
        self._told: tuple[list[list[int]], list[list[float]]] | None = None

    def reset(self) -> None:
        self.learning = None

    def begin(self, session: Session) -> None:
        super().begin(session)
        self._told, units = None, self.skipper.units(session)
        if self.learning is None or self.learning.proposals.units != units:  # the first generation, or another model
            proposals, count = Proposals(units, self.seed), round(self.skip * 2 * len(self.skipper.layers))
            best = proposals.uniform(min(count, proposals.total))
            if not best:
                raise UsageError(f"{type(session.model).__name__} has no layer that can be skipped while drafting")
            self.learning = Learning(proposals, min(count, proposals.total), best)

    @property
    def known(self) -> Learning:
        """What was learnt so far. RuntimeError before the first generation, and after `reset`."""
        if self.learning is None:
            raise RuntimeError("nothing was learnt yet")
        return self.learning

    def skip_set(self, session: Session) -> SkipSet:
        return self.known.proposals.set_of(self.known.best)

    @property
    def passes_by(self) -> bool:
        return self.drafting

    def memory(self) -> Any:
        return copy.deepcopy(self.learning)

    def recall(self, memory: Any) -> None:
        self.learning = copy.deepcopy(memory)

    def propose(self, session: Session, drafts: Drafts) -> None:
        super().propose(session, drafts)
        known, parts = self.known, 2 * len(self.skipper.layers)
        kept = parts - len(self.skip_set(session))
        known.work += (drafts.count + drafts.wanted) * kept + parts
        self._told = None
        if not known.finished and known.spent + kept <= self.share * known.work:
            self._told = self._try(session, drafts, known.next_trial())
            known.spent += kept
            known.work += kept

    def _try(self, session: Session, drafts: Drafts, trial: Chosen) -> tuple[list[list[int]], list[list[float]]]:
        """Let a set read the last token and all drafts. Returns its tokens and their probabilities, for each row."""
        skipped = self.known.proposals.set_of(trial)
        with self.skipper.skipping(skipped):
            outputs = session.forward_block(drafts.columns)
        self.skipper.roll_back(session, skipped, drafts.count + 1)
        chances, ids = torch.softmax(outputs.logits.float(), dim=-1).max(dim=-1)
        return ids.tolist(), chances.tolist()

    def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Tokens) -> None:
        if self._told is None:
            return
        right = own = compared = 0
        for tokens, chances, mine, stand in zip(*self._told, drafts.tokens, standing, strict=True):
            count = self._compared(mine, stand, drafts)
            right += sum(
                tokens[i] == stand[i] and chances[i] >= self.stop_below for i in range(count)
            )  # fmt: skip
            own += sum(draft == token for draft, token in zip(mine[:count], stand[:count], strict=False))
            compared += count
        self.known.tell(right, own, compared)

    def _compared(self, mine: Sequence[int], stand: Sequence[int], drafts: Drafts) -> int:
        """How many tokens of a row can be compared: those that verification tested, and the one that was in doubt."""
        in_doubt = drafts.wanted and len(mine) == drafts.count
        return min(len(stand), len(mine) + in_doubt)
