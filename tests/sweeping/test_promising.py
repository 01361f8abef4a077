"""What one listened decoding tells is what the loop does with another γ and threshold."""

from typing import Any

import torch
from targets import generate, oracle_draft

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.measuring.promising import Listening, checked
from fastvlm_bench.records.trace import Generation, Round
from fastvlm_bench.training.prediction import simulate

COUNT = 16


def listened(llava: Any, inputs: dict[str, Any], draft: Draft) -> Any:
    method = Listening(FastVLM(draft, gamma=2, stop_below=0.5), 8)
    generate(llava, inputs, method, COUNT)
    assert method.last is not None and [len(own) for own in method.sure] == [r.drafted for r in method.last.rounds]
    return checked(method.last, method.sure, COUNT)


def test_rounds_of_the_raw_exit(llava: Any, inputs: dict[str, torch.Tensor]) -> None:
    text = listened(llava, inputs, Draft(3, None))
    assert len(text.right) == COUNT - 1 and not all(text.right)
    for gamma, stop in ((1, 0.0), (5, 0.0), (5, 0.02)):
        method = FastVLM(Draft(3, None), gamma=gamma, stop_below=stop)
        generate(llava, inputs, method, COUNT)
        assert method.last is not None
        found, rounds = simulate([text], gamma, stop), method.last.rounds
        assert (found.rounds, found.accepted, found.tokens) == (
            len(rounds), sum(r.accepted for r in rounds), sum(r.emitted for r in rounds)
        ), (gamma, stop)  # fmt: skip


def test_a_draft_that_is_always_right(llava: Any, inputs: dict[str, torch.Tensor]) -> None:
    draft = oracle_draft(llava, 3, spoiled=0.0)
    text = listened(llava, inputs, draft)
    assert all(text.right)
    method = FastVLM(draft, gamma=5)
    generate(llava, inputs, method, COUNT)
    assert method.last is not None and simulate([text], 5, 0.0).rounds == len(method.last.rounds)


def test_checked_by_hand() -> None:
    """Two accepted and one rejected; one accepted to the end, and the target's own token after it; EOS drafted."""
    rounds = [Round(4, 3, 2, 3, 0.0, 0.0), Round(1, 1, 1, 2, 0.0, 0.0), Round(1, 1, 1, 1, 0.0, 0.0)]
    row = Generation([9, 1, 2, 3, 4, 5, 6], "eos", 0.0, None, 0.0, 0.0, rounds)
    text = checked(row, [[0.9, 0.8, 0.3, 0.2], [0.7], [0.6]], limit=10)
    assert list(text.right) == [True, True, False, True, True, True]
    assert list(text.confidence) == [0.9, 0.8, 0.3, 0.7, 1.0, 0.6] and text.ended and text.room == 3
