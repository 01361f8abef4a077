"""A smaller model of the same vocabulary drafts, and the target verifies: speculative decoding as first published.

Speculative sampling (arXiv 2211.17192, 2302.01318) with a draft model that *sees the image*: it has its own processor,
its own prompt with its own number of image tokens, and its own cache. A language model, which sees nothing, does, too.

    method = DraftModel("org/small-vlm", target=load_target("org/large-vlm"))
    method.show([(image, prompt)])
    target.model.generate(**target.encode(image, prompt), custom_generate=method)
"""

from collections.abc import Sequence
from typing import Any

from fastvlm_bench.drafters.following import Follower, SecondModel, all_rows
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.rows import Tokens
from fastvlm_bench.engine.session import Session, placeholders
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.method_spec import GAMMA, STOP_BELOW, MethodKind, Option
from fastvlm_bench.models.draft_model import tokenizer_of
from fastvlm_bench.models.draft_model_files import other_tokenizer
from fastvlm_bench.models.layers import vocabulary
from fastvlm_bench.models.load import Target
from fastvlm_bench.models.same_tokenizer import differing_tokenizers

METHOD = MethodKind(
    "drafts with a smaller model of the same tokenizer, which sees the image, too", lossless=True, group="drafts",
    options={
        "model": Option(str, None, "the model that drafts", source=True, needed=True), "gamma": GAMMA,
        "stop_below": STOP_BELOW,
    },
)  # fmt: skip


class DraftModel(SecondModel):
    """As `SecondModel`. UsageError if the draft model has another tokenizer than the target."""

    def __init__(
        self, model: str | Target, *, target: Target, gamma: int = 10, stop_below: float = 0.0,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, target=target, gamma=gamma, stop_below=stop_below, clock=clock)
        check_same_tokenizer(self.second, target)
        self._follower: Follower | None = None

    @property
    def follower(self) -> Follower:
        assert self._follower is not None, "only while a model decodes"
        return self._follower

    def open(self, shown: Sequence[dict[str, Any]], most: int) -> None:
        self._follower = Follower(self.second.model, self.together(shown), most, self.clock)

    def followers(self) -> Sequence[Follower]:
        return [self.follower]

    def close(self) -> None:
        self._follower = None

    def begin(self, session: Session) -> None:
        super().begin(session)
        rows = all_rows(session)
        self.follower.begin([row.tokens for row in rows], [row.stop for row in rows])

    def propose(self, session: Session, drafts: Drafts) -> None:
        follower, size = self.follower, vocabulary(session.model)
        while drafts.wanted and not follower.full:
            logits = follower.read(drafts.columns)
            if not session.draft(follower.drawable(logits, size), drafts, drafts.doubt(self.stop_below)):
                break

    def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Tokens) -> None:
        self.follower.follow(standing, [row.stop for row in session.rows])


def check_same_tokenizer(second: Target, target: Target) -> None:
    """UsageError, which names what differs, unless both models give the same ids to the same text."""
    own, other = tokenizer_of(target), tokenizer_of(second)
    unsaid = {*placeholders(target.model), *placeholders(second.model)}
    unsaid |= {token for token in (own.pad_token_id, other.pad_token_id) if token is not None}
    found = differing_tokenizers(own, other, unsaid)
    if found:
        raise UsageError(other_tokenizer(second.id, target.id, found))
