"""FastVLM's self-speculative decoding (arXiv 2510.22641): draft, verify, accept, roll back. The heart of the project.

Draft: the first n layers, the imitation head and the target's own norm and LM head propose up to γ tokens, one by one.
Verify: the remaining layers run over all of them in one pass, which reuses the draft's hidden states and KV cache.
Accept: drafts stand up to the first one that the rule in `engine/accept.py` rejects; the target's own token follows.
Roll back: the KV of the rejected drafts is forgotten. With greedy decoding the output equals the target's, token by
token, except for near-ties in half precision; with sampling it has the target's distribution.

    model.generate(**inputs, custom_generate=FastVLM.from_pretrained("drafts/my-draft"))

`FastVLM.round` is one such round. `engine/method.py` has the loop around it: prefill, then rounds until every row has
stopped. A row is one sequence of a batch. Tokens are given as one list per row, and each row accepts its own drafts.
"""

import weakref
from pathlib import Path
from typing import Any

from fastvlm_bench.drafters.exit_tree import Shape, tree_options, tree_round
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.drafting import Doubt, Drafts
from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.session import Session
from fastvlm_bench.engine.tree import ONE_AT_A_TIME, check_takes_trees
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import (
    BRANCH_ABOVE,
    DRAFT,
    EXIT_LAYER,
    GAMMA,
    HEAD,
    NODES,
    STOP_BELOW,
    TOPK,
    MethodKind,
)
from fastvlm_bench.models.load import Target
from fastvlm_bench.records.trace import Round

METHOD = MethodKind(
    "drafts with the first layers and an imitation head, verifies with the remaining layers", lossless=True,
    group="ours",
    options={
        "gamma": GAMMA, "draft": DRAFT, "exit_layer": EXIT_LAYER, "head": HEAD, "stop_below": STOP_BELOW,
        "topk": TOPK, "nodes": NODES, "branch_above": BRANCH_ABOVE,
    },
)  # fmt: skip


class FastVLM(Method):
    """A decoding method, to be passed to `generate` as `custom_generate`. Afterwards `last` holds the trace.

    draft: a loaded draft, or a folder from which the first call loads it. gamma: γ, most tokens drafted per round.
    stop_below: drafting stops where the likeliest next token is less probable than this, so that no verification is
    spent on a doubtful draft (0 = never, as in the paper; the command line's default is 0.5). With a topk above 1
    drafts are trees, as topk, nodes and branch_above shape them (`drafters/exit_tree.py`). target: a model that must
    take trees, by default that of the first call. streamer: as in `Method`. ValueError for values out of range,
    UsageError where they do not fit together.
    """

    def __init__(
        self, draft: Draft | Path, *, gamma: int = 10, stop_below: float = 0.0, topk: int | None = None,
        nodes: int | None = None, branch_above: float | None = None, streamer: Any = None,
        target: Target | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        if gamma < 1 or not 0.0 <= stop_below < 1.0:
            raise ValueError(f"gamma must be at least 1 and stop_below within 0 .. 1, not {gamma} and {stop_below}")
        super().__init__(clock=clock)
        self.draft, self.gamma, self.stop_below, self.streamer = draft, gamma, stop_below, streamer
        self.topk, self.nodes, self.branch_above = tree_options(topk, nodes, branch_above)
        if target is not None:
            self._check_trees(target.model)
        self._fits: tuple[Any, ...] = ()  # the model that the draft was last seen to fit, its dtype and its device

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: Any = None, **options: Any) -> "FastVLM":
        """A method with the draft in `folder`. options: as in the constructor.

        The draft is loaded now if `model` is given, else at the first call. UsageError if it was made for another
        model, or is damaged.
        """
        return cls(Path(folder) if model is None else Draft.load(Path(folder), model), **options)

    @property
    def priced(self) -> bool:
        """Whether a round costs one draft pass for each position that it verifies, so that passes predict its time."""
        return not self.topk

    def draft_for(self, model: Any) -> Draft:
        if isinstance(self.draft, Path):
            self.draft = Draft.load(self.draft, model)
        draft: Draft = self.draft
        fits = (weakref.ref(model), model.dtype, model.device)  # a model that was cast or moved is another
        if self._fits != fits:
            draft.check_shape(model)
            self._check_trees(model)
            self._fits = fits
        return draft

    def _check_trees(self, model: Any) -> None:
        if self.topk:
            check_takes_trees(model, remedy="draft a chain: topk=1")

    @property
    def beyond(self) -> int:
        return self.nodes or 0

    def begin(self, session: Session) -> None:
        if self.topk and session.takes_several:
            raise UsageError(ONE_AT_A_TIME)
        session.record_past()  # else sliding windows and recurrent states could not be rolled back

    def round(self, session: Session) -> list[Round]:
        """Draft, verify, accept, roll back."""
        if self.topk and self.nodes and self.branch_above is not None:
            shape = Shape(self.gamma, self.topk, self.nodes, self.branch_above, self.stop_below)
            return [tree_round(session, shape, self.clock)]
        kwargs, began = dict(session.kwargs), self.clock.mark()
        drafts, draft_s = self._draft(session, kwargs)
        drafted = self.clock.mark()
        accepted, standing, outputs, verify_s = self._verify(session, kwargs, drafts)
        draft_s, verify_s = self.clock.apart(began, drafted, draft_s, verify_s)
        emitted = session.emit(standing)
        # Roll back: the KV of rejected tokens is forgotten, in every layer and in the head.
        session.keep(outputs, standing, ran=len(session.gate.kept))
        return drafts.rounds(accepted, emitted, draft_s, verify_s)

    def _draft(self, session: Session, kwargs: dict[str, Any]) -> tuple[Drafts, float]:
        """Draft until γ, EOS, the token limit or doubt. Returns the drafts and the seconds of the passes.

        Each pass runs one token through the early layers: first the last emitted token, then each draft. Only an EOS
        that ends the drafts of every row needs no pass.
        """
        gate, clock, seconds = session.gate, self.clock, 0.0
        gate.mode = Mode.DRAFT
        gate.kept.clear()
        kwargs["past_key_values"] = session.draft_view()
        drafts = session.new_drafts(self.gamma)
        while True:
            started = clock.now()
            outputs = session.forward(1, drafts.columns, kwargs)
            more = drafts.wanted and session.draft(outputs.logits, drafts, self._doubt(drafts), unread=True)
            seconds += clock.now() - started
            # A pass that adds no draft is not wasted: verification starts from the state that it kept, and gives
            # the target's own token at this place.
            if not more or drafts.ended:
                return drafts, seconds
            session.advance_kwargs(outputs, kwargs, 1)

    def _doubt(self, drafts: Drafts) -> Doubt | None:
        """Where this round's drafting stops before a token; None for nowhere."""
        return drafts.doubt(self.stop_below)

    def _verify(
        self, session: Session, kwargs: dict[str, Any], drafts: Drafts
    ) -> tuple[list[int], list[list[int]], Any, float]:
        """Run the layers from the exit on, in one pass over all states that drafting kept (γ + 1 at most).

        Returns for each row how many drafts stand, and for each row these drafts with the target's own next token;
        then the model's output and the seconds of the pass.
        """
        gate = session.gate
        gate.mode, count = Mode.VERIFY, len(gate.kept)
        view = {**kwargs, "past_key_values": session.cache_view(gate.exit_layer, count)}
        started = self.clock.now()
        outputs = session.forward(count, drafts.ahead(count - 1), view)
        accepted, standing = session.accept(drafts, outputs.logits)
        seconds = self.clock.now() - started
        outputs["past_key_values"] = session.cache  # the next round goes on with the cache itself, not with the view
        return accepted, standing, outputs, seconds
