"""FastVLM's self-speculative decoding (arXiv 2510.22641): draft, verify, accept, roll back. The heart of the project.

The first n layers and the imitation head draft up to γ tokens; the layers from n on verify them in one pass that
reuses the draft's hidden states and KV cache. Tokens that the target would have chosen stand; the first other one
is replaced by the target's own. With greedy decoding the output is the target's, token by token; with sampling it
has the target's distribution.

    model.generate(**inputs, custom_generate=FastVLM.from_pretrained("drafts/my-draft"))

One sequence or several: whatever is told of tokens is a list for each row, and each row accepts what stands of its
own. `engine/method.py` has the frame: prefill, then rounds until every row has stopped.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.layer_gate import Mode
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.records.trace import Round


class FastVLM(Method):
    """A decoding method, to be passed to `generate` as `custom_generate`. `last` holds the latest trace.

    gamma: most tokens drafted per round. stop_below: drafting stops before a token whose draft probability is
    lower (0 = never, as in the paper; 0.5 on the command line): no verification is spent on a draft in doubt.
    """

    def __init__(
        self, draft: Draft | Path, *, gamma: int = 10, stop_below: float = 0.0, clock: Clock | None = None
    ) -> None:
        if gamma < 1 or not 0.0 <= stop_below < 1.0:
            raise ValueError(f"gamma must be at least 1 and stop_below within 0 .. 1, not {gamma} and {stop_below}")
        super().__init__(clock=clock)
        self.draft, self.gamma, self.stop_below = draft, gamma, stop_below

    @classmethod
    def from_pretrained(cls, folder: str | Path, model: Any = None, **options: Any) -> "FastVLM":
        """A method with the draft in `folder`; options as in the constructor.

        The draft is loaded, and checked to be trained for the model, at once if it is given, else at the first call.
        """
        return cls(Path(folder) if model is None else Draft.load(Path(folder), model), **options)

    def draft_for(self, model: Any) -> Draft:
        if isinstance(self.draft, Path):
            self.draft = Draft.load(self.draft, model)
        draft: Draft = self.draft
        return draft

    def begin(self, session: Session) -> None:
        session.record_past()  # else sliding windows and recurrent states could not be rolled back

    def round(self, session: Session) -> list[Round]:
        kwargs = dict(session.kwargs)
        drafts, draft_s = self._draft(session, kwargs)
        accepted, standing, outputs, verify_s = self._verify(session, kwargs, drafts)
        emitted = session.emit(standing)
        # Roll back: the KV of rejected tokens is forgotten, in every layer and in the head.
        session.keep(outputs, standing, ran=len(session.gate.kept))
        return [Round(len(mine), stand + (stand < len(mine)), stand, count, draft_s, verify_s)
                for mine, stand, count in zip(drafts.tokens, accepted, emitted, strict=True)]  # fmt: skip

    def _draft(self, session: Session, kwargs: dict[str, Any]) -> tuple[Drafts, float]:
        """Draft until γ, EOS, the token limit or doubt. Every token but a final EOS has passed the early layers."""
        gate, clock, seconds = session.gate, self.clock, 0.0
        gate.mode = Mode.DRAFT
        gate.kept.clear()
        kwargs["past_key_values"] = gate.draft_view(session.cache)
        drafts = session.new_drafts(self.gamma)
        while True:
            started = clock.now()
            outputs = session.forward(1, drafts.columns, kwargs)
            logits = outputs.logits
            more = drafts.wanted and not self._in_doubt(drafts, logits) and session.draft(logits, drafts)
            seconds += clock.now() - started
            # The pass of the last token, or of one whose successor is in doubt, was not in vain: verification
            # starts from its state and gives the token that follows it, whatever the draft thought.
            if not more or drafts.ended:
                return drafts, seconds
            session.advance_kwargs(outputs, kwargs, 1)

    def _in_doubt(self, drafts: Drafts, logits: Tensor) -> bool:
        """Whether the draft is not confident of its next token, by its probability before any logits processor.

        That of the likeliest token, not of the one drawn: to drop a draft for what it is would favour others.
        """
        if not self.stop_below:
            return False
        chances = torch.softmax(logits[:, -1].float(), dim=-1).amax(dim=-1).tolist()
        return drafts.doubted(chances, self.stop_below)

    def _verify(
        self, session: Session, kwargs: dict[str, Any], drafts: Drafts
    ) -> tuple[list[int], list[list[int]], Any, float]:
        """One pass of the layers from the exit on, over all kept states.

        Returns how many drafts stand of each row, those tokens with the one that follows them, the model's output, and
        seconds.
        """
        gate = session.gate
        gate.mode, count = Mode.VERIFY, len(gate.kept)
        view = {**kwargs, "past_key_values": session.cache_view(gate.exit_layer, count)}
        started = self.clock.now()
        outputs = session.forward(count, drafts.ahead(count - 1), view)
        accepted, standing = session.accept(drafts, outputs.logits)
        seconds = self.clock.now() - started
        outputs["past_key_values"] = session.cache
        return accepted, standing, outputs, seconds
