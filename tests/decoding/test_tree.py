"""A tree of drafts is verified in one pass, and the output is that of standard decoding whatever the tree holds."""

from typing import Any

import pytest
import torch
from covering import covering
from families.builders import FAMILIES
from targets import generate

from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.proposing import Proposing
from fastvlm_bench.engine.session import Session
from fastvlm_bench.engine.tree import ROOT, Tree, check_takes_trees, keep_tree, verify_tree
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records.trace import Round

COUNT = 40


class RandomTrees(Proposing):
    """Drafts trees in which the right continuation (`known`) is hidden in random branches, at random depths."""

    def __init__(self, known: list[int], seed: int) -> None:
        super().__init__()
        self.known, self.generator, self.paths = known, torch.Generator().manual_seed(seed), list[list[int]]()

    def _random(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.generator))

    def tree(self, session: Session) -> Tree:
        done = len(session.new_tokens)
        right, tokens, parents, nodes = self.known[done : done + self._random(6)], list[int](), list[int](), [ROOT]
        tip = ROOT
        while right or self._random(3):
            parent = tip if right and self._random(2) else nodes[self._random(len(nodes))]
            token = right[0] if right and parent == tip else 5 + self._random(200)
            if (parent, token) in zip(parents, tokens, strict=True):
                continue
            if right and parent == tip and token == right[0]:
                right, tip = right[1:], len(tokens)
            nodes.append(len(tokens))
            tokens.append(token)
            parents.append(parent)
        return Tree(tokens, parents)

    def round(self, session: Session) -> list[Round]:
        tree = self.tree(session)
        outputs, path, standing = verify_tree(session, tree)
        (emitted,) = session.emit([standing])
        keep_tree(session, outputs, path, emitted)
        self.paths.append(path)
        return [Round(len(tree), len(path), len(path), emitted, 0.0, 0.0)]

    def propose(self, session: Session, drafts: Drafts) -> None:
        raise AssertionError


OPTIONS: list[dict[str, Any]] = [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}]
CASES = [(options, seed) for options in OPTIONS for seed in range(3)]


@pytest.mark.parametrize(("options", "seed"), covering(CASES, list(zip(OPTIONS, range(3), strict=True))[1:]))
def test_it_is_standard_decoding(llava: Any, inputs: dict[str, Any], options: dict[str, Any], seed: int) -> None:
    known = generate(llava, inputs, count=COUNT, **options)
    method = RandomTrees(known, seed)
    assert generate(llava, inputs, method, COUNT, **options) == known
    lengths = [len(path) for path in method.paths]
    assert max(lengths) > 2 > min(lengths), "trees must be accepted and rejected"
    assert any(path != list(range(len(path))) for path in method.paths), "what stands must not be a prefix of the pass"


def test_it_stops_at_eos_within_a_branch(llava: Any, inputs: dict[str, Any]) -> None:
    known = generate(llava, inputs, count=COUNT)
    eos = known[7]
    wanted = known[: known.index(eos) + 1]
    for seed in range(4):
        assert generate(llava, inputs, RandomTrees(known, seed), COUNT, eos_token_id=eos) == wanted


def test_what_each_column_reads() -> None:
    tree = Tree([7, 8, 9, 7], [ROOT, 0, ROOT, 2])
    assert tree.depths == [1, 2, 1, 2]
    assert tree.sees.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 1, 1],
    ]
    assert tree.children(ROOT) == {7: 0, 9: 2} and tree.children(2) == {7: 3} and tree.children(3) == {}


@pytest.mark.parametrize(("tokens", "parents"), [([1, 2], [ROOT]), ([1, 2], [1, ROOT]), ([3, 3], [ROOT, ROOT])])
def test_what_is_no_tree_is_refused(tokens: list[int], parents: list[int]) -> None:
    with pytest.raises(ValueError, match="tree|children"):
        Tree(tokens, parents)


def test_a_model_that_knows_one_past_only_is_refused(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    check_takes_trees(llava)
    text = llava.config.text_config
    with monkeypatch.context() as patch:
        patch.setattr(text, "layer_types", ["full_attention", "linear_attention"], raising=False)
        with pytest.raises(UsageError, match="layers of the kind linear_attention"):
            check_takes_trees(llava)
    with monkeypatch.context() as patch:
        patch.setattr(text, "_attn_implementation_internal", "flash_attention_2")
        with pytest.raises(UsageError, match="its attention, flash_attention_2, takes no mask .* try --attn sdpa"):
            check_takes_trees(llava)
    check_takes_trees(llava)


def test_a_model_that_makes_its_masks_itself_is_refused() -> None:
    """Kosmos-2 makes a mask from one mark for each token, and fails on any other."""
    with pytest.raises(UsageError, match="makes its masks itself"):
        check_takes_trees(FAMILIES["kosmos2"]()[0])
