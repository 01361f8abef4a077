"""Block heads in training: each place learns the token that it drafts, from the state that decoding gives it."""

from typing import Any

import pytest
import torch
from training.conftest import trainer_of

from fastvlm_bench.decoding.block import Block
from fastvlm_bench.drafts.heads import BlockHead
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.trainer import HeadTrainer

PLACES = 3


@pytest.fixture(scope="module")
def trained(target: Target, examples: list[Example]) -> HeadTrainer:
    made = trainer_of(target, [f"block:exit_layer=1,places={PLACES}"], examples, lr=0.03)
    losses = [made.update(examples[:6])["block-exit1"] for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    return made


def test_each_place_reads_the_state_so_many_places_before(trained: HeadTrainer, examples: list[Example]) -> None:
    """In a text alone, and in each row of a batch; at the first tokens of a text the later places have none."""
    (student,) = trained.students
    head: Any = student.head
    pair = [one for one in examples if one.taught > PLACES][:2]
    with torch.no_grad():
        rows = []
        for example in pair:
            view = trained.observer.forced(example)
            (first,) = view.imitate(head, 1)
            ahead = list(view.imitate_ahead(head, 1, PLACES))
            for number, (states, there) in enumerate(ahead):
                assert there.tolist() == [False] * number + [True] * (len(first) - number)
                assert torch.allclose(states, first[: len(first) - number], atol=1e-5)
            rows.append(ahead)
        if trained.observer.packs:
            together = list(trained.observer.packed(pair).imitate_ahead(head, 1, PLACES))
            for number, (states, there) in enumerate(together):
                assert there.tolist() == [x for row in rows for x in row[number][1].tolist()]
                assert torch.allclose(states, torch.cat([row[number][0] for row in rows]), atol=1e-3)


def test_decoding_drafts_what_training_taught(trained: HeadTrainer, target: Target, examples: list[Example]) -> None:
    """The block after an answer's token is, in decoding, what training computes of the text, place by place."""
    (student,) = trained.students
    example = max(examples, key=lambda one: one.taught)
    draft = trained.draft(student)
    seen: dict[int, torch.Tensor] = {}

    class Watched(Block):
        def _said(self, session: Any, logits: torch.Tensor) -> torch.Tensor:
            seen[len(session.new_tokens)] = logits[0].argmax(-1)
            return logits

    method = Watched(draft)
    target.model.generate(**example.inputs(target), max_new_tokens=len(example.answer), do_sample=False,
                          custom_generate=method)  # fmt: skip
    assert method.last is not None and method.last.token_ids == list(example.answer)
    assert trained.tail is not None and isinstance(student.head, BlockHead)
    with torch.no_grad():
        (states,) = trained.observer.forced(example).imitate(student.head, 1)
        for emitted, tokens in seen.items():
            if emitted - 1 < len(states):
                taught = trained.tail(student.head.block(states[emitted - 1 : emitted], PLACES)[0]).argmax(-1)
                assert tokens.tolist() == taught[: len(tokens)].tolist()
    assert len(seen) > 2


def test_recipes() -> None:
    assert Recipe.parse("block", exit_layer=2).head_options == {"places": 4}
    made = Recipe.parse("block:exit_layer=2,places=6,depth=2,decay=0.5")
    assert made.head_options == {"depth": 2, "places": 6} and made.decay == 0.5 and made.name == "block-exit2"
    with pytest.raises(UsageError, match="gives places, which only block takes"):
        Recipe.parse("mlp:places=3", exit_layer=1)
    with pytest.raises(UsageError, match="gives decay, which only medusa and block take"):
        Recipe.parse("mlp:decay=0.5", exit_layer=1)
    with pytest.raises(UsageError, match="places in 'block:places=1' is '1'; it must be a whole number, 2"):
        Recipe.parse("block:places=1", exit_layer=1)
