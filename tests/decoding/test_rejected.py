"""What was drafted and rejected reaches the trace and the record: every way of drafting, greedy, drawn, in batches."""

from itertools import product
from typing import Any

import pytest
from covering import covering
from decoding.test_batch import batch, ragged_draft, singles  # noqa: F401
from decoding.test_medusa import random_heads
from decoding.test_transformers_loops import few_words
from targets import oracle_draft
from through_runner import run

from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hf_prompt_lookup import HfPromptLookup
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.medusa import Medusa
from fastvlm_bench.decoding.prompt_lookup import PromptLookup
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.engine.tree import ROOT, Tree
from fastvlm_bench.records.trace import Generation

COUNT = 24
HOW: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "drawn": {"do_sample": True, "temperature": 1.5, "top_k": 0, "top_p": 1.0},
}


def check(row: Generation, chain: bool = True) -> int:
    """Each rejected draft is there, and the target said something else in its place. Returns how many were rejected."""
    place, found = 1, 0
    for done in row.rounds:
        if done.tested == done.accepted:
            assert list(done.rejected) == []
        else:
            found += 1
            assert done.rejected[0] != row.token_ids[place + done.accepted]
        if chain:
            assert len(done.rejected) == done.drafted - done.accepted
        place += done.emitted
    return found


KINDS = ("fastvlm", "layerskip", "prompt-lookup", "medusa", "tree", "hf-prompt-lookup")
QUICK = [("fastvlm", "drawn"), ("prompt-lookup", "greedy"), ("tree", "greedy"), ("hf-prompt-lookup", "greedy")]


@pytest.mark.parametrize(("kind", "how"), covering(product(KINDS, HOW), QUICK))
def test_every_way_of_drafting(llava: Any, inputs: dict[str, Any], kind: str, how: str) -> None:
    method: Any = {
        "fastvlm": lambda: FastVLM(oracle_draft(llava, 2), gamma=5), "layerskip": lambda: LayerSkip(2, gamma=3),
        "prompt-lookup": lambda: PromptLookup(gamma=4), "hf-prompt-lookup": lambda: HfPromptLookup(gamma=4),
        "medusa": lambda: Medusa(random_heads(llava)), "tree": lambda: Medusa(random_heads(llava), topk=3, nodes=12),
    }[kind]()  # fmt: skip
    options = {**HOW[how], **(few_words(llava, 0) if "lookup" in kind else {})}
    (row,) = measure(method, llava, inputs, COUNT, generation=options, seed=3).rows
    assert check(row, chain=kind not in ("tree", "hf-prompt-lookup")) > 0
    if kind == "tree":
        assert any(len(done.rejected) > 1 for done in row.rounds)


@pytest.mark.slow
def test_a_batch(llava: Any, batch: dict[str, Any]) -> None:  # noqa: F811
    rows = measure(FastVLM(ragged_draft(llava, 2), gamma=4), llava, batch, COUNT).rows
    assert all(check(row) > 0 for row in rows)


@pytest.mark.slow  # in the default run, as many are told as were rejected
def test_where_nothing_is_rejected_nothing_is_told(llava: Any, inputs: dict[str, Any]) -> None:
    for method in (FastVLM(oracle_draft(llava, 2, spoiled=0.0), gamma=4), Control(gamma=4)):
        (row,) = measure(method, llava, inputs, COUNT).rows
        assert check(row) == 0
    (row,) = measure(EarlyExit(oracle_draft(llava, 2)), llava, inputs, COUNT).rows
    assert not any(done.rejected for done in row.rounds)


def test_the_path_that_a_tree_would_have_taken() -> None:
    #  1 ── 2 ── 3        a tree of two branches: below ROOT the tokens 1 and 4, below 1 the tokens 2 and 5
    tree = Tree([1, 4, 2, 5, 3], [ROOT, ROOT, 0, 0, 2])
    assert tree.first_path(ROOT) == [1, 2, 3]
    assert tree.first_path(0) == [2, 3]
    assert tree.first_path(1) == tree.first_path(4) == []


def test_the_record_has_them(llava: Any, inputs: dict[str, Any]) -> None:
    lines = run(llava, inputs, FastVLM(oracle_draft(llava, 2), gamma=4))
    for line in lines:
        assert sum(line["token_chars"]) == len(line["text"])
        if line["method"] == "standard":
            assert "rejected_ids" not in line
            continue
        assert [len(ids) for ids in line["rejected_ids"]] == [
            drafted - stood for drafted, _, stood, *_ in line["rounds"]
        ]
        said = [[f" {token}" for token in ids] for ids in line["rejected_ids"]]  # as the runner's target writes them
        assert line["rejected_pieces"] == said and any(said)
