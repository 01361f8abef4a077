"""Draft & Verify (arXiv 2309.08168): the target drafts with a fixed set of its attention and MLP sub-layers skipped.

The set is found beforehand by `fastvlm-bench skip-search` and saved as a folder.

    model.generate(**inputs, custom_generate=DraftVerify(Path("drafts/skip-mine")))
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvlm_bench.drafters.skip_drafting import SkipDrafting
from fastvlm_bench.drafts.skip_set import SkipSet, load_skip_set, named
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import GAMMA, SKIP_SET, STOP_BELOW, MethodKind
from fastvlm_bench.models.load import Target

METHOD = MethodKind(
    "drafts with the target itself, a set of its attentions and MLPs skipped that `skip-search` found", lossless=True,
    group="baselines", options={"gamma": GAMMA, "draft": SKIP_SET, "stop_below": STOP_BELOW},
)  # fmt: skip


class DraftVerify(SkipDrafting):
    """draft: the set of sub-layers to skip, or the folder of one.

    The folder is read now if `target` is given, else when the first model decodes. UsageError then, if the set is of
    another model, or skips what this model cannot do without.
    """

    def __init__(
        self, draft: SkipSet | Path, *, gamma: int = 10, stop_below: float = 0.0, clock: Clock | None = None,
        target: Target | None = None,
    ) -> None:  # fmt: skip
        super().__init__(gamma=gamma, stop_below=stop_below, clock=clock)
        self.source = draft
        self._skips = draft if isinstance(draft, SkipSet) else None
        self._named: Mapping[str, Any] | None = None
        if target is not None:
            self.load(target.model)

    @property
    def drafter(self) -> dict[str, Any] | None:
        return dict(self._named) if self._named is not None else None

    def load(self, model: Any) -> SkipSet:
        """The skip set, read now if it was not yet."""
        if self._skips is None:
            assert isinstance(self.source, Path)
            told = load_skip_set(self.source, model)
            self._skips, self._named = told.skips, named(self.source, told)
        return self._skips

    def begin(self, session: Session) -> None:
        super().begin(session)
        self.skipper.check(self.load(session.model), session)

    def skip_set(self, session: Session) -> SkipSet:
        return self.load(session.model)
