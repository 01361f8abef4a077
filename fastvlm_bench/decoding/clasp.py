"""CLaSp (arXiv 2505.24196): the layers to skip while drafting are chosen anew as the text goes on.

After a verification, the hidden states of the last token that stood tell which layers change it least. A dynamic
program over the layers finds the set; see `drafters/layer_choice.py`. It takes about one more pass of the layers,
within the clock.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from fastvlm_bench.drafters.layer_choice import Seen, choose_layers, last_places
from fastvlm_bench.drafters.layer_skipping import must_run
from fastvlm_bench.drafters.skip_drafting import SkipDrafting, spread
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.batch_cache import KINDS
from fastvlm_bench.engine.cache_view import text_cache
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import GAMMA, STOP_BELOW, MethodKind, Option

METHOD = MethodKind(
    "drafts with some of the target's layers skipped, which it chooses anew from the states of a verification",
    lossless=True, group="baselines",
    options={
        "gamma": GAMMA,
        "stop_below": STOP_BELOW,
        "skip": Option(float, 0.5, "share of the layers that is skipped", low=0.01, below=1),
        "every": Option(int, 4, "rounds between two choices of the layers; the prompt's end gives the first", low=1),
    },
)  # fmt: skip

FAULTS = (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError)
REMEDY = "use swift or draft-verify"


class Clasp(SkipDrafting):
    """skip: the share of the target's layers that is skipped. every: rounds between two choices.

    ValueError for values out of range. UsageError for a model whose layers cannot be run by hand.
    """

    takes_recorded_batches = False  # it runs layers by hand, over the caches of all rows

    def __init__(
        self, *, gamma: int = 10, stop_below: float = 0.0, skip: float = 0.5, every: int = 4,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, stop_below=stop_below, clock=clock)
        if not 0.0 < skip < 1.0 or every < 1:
            raise ValueError(f"skip must be within 0 .. 1 and every at least 1, not {skip} and {every}")
        self.skip, self.every = skip, every
        self._seen: Seen | None = None
        self._may = frozenset[int]()
        self._skipped = SkipSet()
        self._rounds = 0

    def around(self, model: Any) -> AbstractContextManager[Any]:
        check_runs_by_hand(model)
        return self._watched(super().around(model))

    @contextmanager
    def _watched(self, skipping: AbstractContextManager[Any]) -> Iterator[None]:
        """Within `skipping`, look at the prompt's end. Nothing that was seen is kept afterwards."""
        with skipping:
            self._rounds = 0
            self._look(Seen(last_only=True))
            try:
                yield
            finally:
                self._look(None)

    def _look(self, seen: Seen | None) -> None:
        self._seen = seen
        self.skipper.watch = seen.watch if seen is not None else None

    @property
    def count(self) -> int:
        """How many layers are skipped."""
        return min(len(self._may), max(1, round(self.skip * len(self.skipper.layers))))

    def begin(self, session: Session) -> None:
        super().begin(session)
        if any(type(layer) not in KINDS for layer in text_cache(session.cache).layers):
            raise _refused(session.model, "it keeps more than keys and values")
        if session.fixed:
            raise _refused(session.model, "it has layers that read the image's keys and values")
        self._may = frozenset(range(1, len(self.skipper.layers) - 1)) - must_run(session)
        seen = self._seen
        self._look(None)
        if seen is not None and len(seen.states[0]) == len(session.rows):
            self._choose(session, seen, [seen.columns] * len(session.rows))
        else:  # rows that ended at their first token have left: the states are not those of the rows any more
            units = [SkipSet.of_layers([index]) for index in sorted(self._may)]
            self._skipped = SkipSet.union(units[i] for i in spread(units, 2 * self.count))

    def skip_set(self, session: Session) -> SkipSet:
        return self._skipped

    @property
    def passes_by(self) -> bool:
        return self.drafting

    def propose(self, session: Session, drafts: Drafts) -> None:
        super().propose(session, drafts)
        self._rounds += 1
        if self._rounds % self.every == 0:
            self._look(Seen())

    def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Tokens) -> None:
        seen = self._seen
        self._look(None)
        if seen is not None and not all(row.stop for row in session.rows):
            self._choose(session, seen, [max(len(tokens), 1) for tokens in standing])

    def _choose(self, session: Session, seen: Seen, counts: list[int]) -> None:
        """Choose the layers by each row's token number `counts` of the pass, counted from 1."""
        places = last_places(counts, session.device)
        try:
            layers = choose_layers(self.skipper.layers, session.cache, seen, places, self._may, self.count)
        except torch.OutOfMemoryError:
            raise
        except FAULTS as error:
            reason = (str(error).strip().splitlines() or [""])[0][:120]
            raise _refused(session.model, f"{type(error).__name__}: {reason}") from error
        self._skipped = SkipSet.of_layers(layers)


def check_runs_by_hand(model: Any) -> None:
    """UsageError for a model whose layers cannot be run on single states."""
    text = model.config.get_text_config(decoder=True)
    attention = getattr(text, "_attn_implementation", None)
    if getattr(model.config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        raise _refused(model, "it is an encoder-decoder")
    if getattr(text, "num_kv_shared_layers", 0):
        raise _refused(model, "its layers share keys and values")
    if attention not in ("sdpa", "eager", None):
        raise UsageError(f"clasp needs masks of its own, which the attention '{attention}' does not take; "
                         "load the model with --attn sdpa")  # fmt: skip


def _refused(model: Any, why: str) -> UsageError:
    return UsageError(f"clasp cannot run the layers of {type(model).__name__} one by one ({why}); {REMEDY}")
