"""`fastvlm` and `layerskip` with trees: the output is the target's own at every exit, γ and EOS place, or refused."""

import copy
from itertools import product
from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_batch import batch, decode, singles  # noqa: F401 - fixtures
from decoding.test_sampling import options, outputs, products, prompt, said, target  # noqa: F401 - fixtures
from families.builders import build, plain
from targets import LAYERS, RecordableOracle, generate, jumbled, oracle_draft

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.drafters import exit_tree
from fastvlm_bench.drafts.heads import HEADS, new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.tree import ROOT, Tree
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers

EXITS, COUNT = range(1, LAYERS), 26
SHAPES: list[dict[str, Any]] = [
    {"topk": 2}, {"topk": 4, "nodes": 7}, {"topk": 3, "nodes": 40, "branch_above": 0.0, "stop_below": 0.02},
]  # fmt: skip


@pytest.fixture(scope="module")
def expected(llava: Any, inputs: dict[str, Any]) -> list[int]:
    return generate(llava, inputs, None, COUNT)


@pytest.fixture
def trees(monkeypatch: pytest.MonkeyPatch) -> list[Tree]:
    """Every tree that is drafted."""
    seen: list[Tree] = []
    grow = exit_tree.grow

    def watched(*given: Any) -> Tree:
        seen.append(grow(*given))
        return seen[-1]

    monkeypatch.setattr(exit_tree, "grow", watched)
    return seen


def forks(trees: list[Tree]) -> bool:
    return any(len(set(tree.parents)) < len(tree) for tree in trees)


def blurred(model: Any, exit_layer: int, noise: float = 0.6) -> Draft:
    """An oracle whose states are blurred: its likeliest token is often wrong, and its second or third one right."""

    class Blurred(RecordableOracle):
        def forward(self, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            made = super().forward(states, *args, **kwargs)
            return made + noise * jumbled(made)

    return Draft(exit_layer, Blurred(model, exit_layer, 0.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("exit_layer", "gamma", "shape"),
    covering(product(EXITS, (1, 3, 8), range(len(SHAPES))), [(2, 3, 2), (4, 1, 0)]),
)
def test_it_is_standard_decoding(
    llava: Any, inputs: Any, expected: list[int], trees: list[Tree], exit_layer: int, gamma: int, shape: int
) -> None:
    method = FastVLM(blurred(llava, exit_layer), gamma=gamma, **SHAPES[shape])
    assert generate(llava, inputs, method, COUNT) == expected
    assert method.last is not None and forks(trees)
    rounds = method.last.rounds
    assert 1 + sum(r.emitted for r in rounds) == COUNT
    most = SHAPES[shape].get("nodes", 16)
    assert all(r.accepted <= r.tested <= r.drafted <= most and r.accepted <= gamma for r in rounds)
    assert sum(r.accepted for r in rounds) > 3 and sum(r.tested - r.accepted for r in rounds) > 0


def test_a_branch_beside_the_likeliest_stands(llava: Any, inputs: Any, expected: list[int], trees: list[Tree]) -> None:
    """More tokens stand than of the chain with the same draft, and what stands is not always the first path."""
    emitted = []
    for given in ({}, {"topk": 4}):
        method = FastVLM(blurred(llava, 2), gamma=4, **given)
        assert generate(llava, inputs, method, COUNT) == expected and method.last is not None
        emitted.append((COUNT - 1) / len(method.last.rounds))
    assert emitted[1] > emitted[0] > 1


@pytest.mark.parametrize("exit_layer", covering(EXITS, [1]))
def test_a_perfect_head_is_always_accepted(
    llava: Any, inputs: Any, expected: list[int], trees: list[Tree], exit_layer: int
) -> None:
    """The head's own KV, and the early layers', are as if only the branch that stands had been read.

    Its likeliest token always stands. Further down, of flat probabilities, another path may be more probable.
    """
    method = FastVLM(oracle_draft(llava, exit_layer, 0.0), gamma=3, topk=3, nodes=9, branch_above=0.0)
    assert generate(llava, inputs, method, COUNT) == expected and forks(trees)
    assert method.last is not None and all(r.accepted >= bool(r.drafted) for r in method.last.rounds)


@pytest.mark.parametrize("head", covering([*HEADS, None], ["eagle"]))
def test_heads(llava: Any, inputs: Any, expected: list[int], head: str | None) -> None:
    """Of every kind, untrained. What is drafted after a tree is what is drafted where the prompt has these tokens."""
    torch.manual_seed(2)
    draft = Draft(2, new_head(head, llava, 2, {"depth": 2} if head == "twig" else {}) if head else None)
    if head == "eagle":
        torch.nn.init.normal_(draft.head.join.weight, 0, 0.02)  # type: ignore[union-attr]
    seen: list[Tree] = []
    grow = exit_tree.grow

    def watched(session: Any, shape: Any) -> Tree:
        ids = session._ids[:, : session.length].clone()
        seen.append(grow(session, shape))
        places.append(ids)
        return seen[-1]

    places: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exit_tree, "grow", watched)
        method = FastVLM(draft, gamma=2, topk=3, nodes=6)
        assert generate(llava, inputs, method, 8) == expected[:8]
        made, at = list(seen), list(places)
        for number in (1, len(made) // 2, len(made) - 2):
            ids = at[number][:, :-1]
            longer = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            seen.clear()
            generate(llava, longer, FastVLM(draft, gamma=2, topk=3, nodes=6), 6)
            if head != "eagle" or number:  # the state of the token before is the target's own in both
                assert seen[0] == made[number]


PLACES = range(1, 12)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "gamma"), list(product(PLACES, (1, 4))))
def test_eos_at_each_place(llava: Any, inputs: Any, expected: list[int], place: int, gamma: int) -> None:
    eos = expected[place]
    wanted = expected[: expected.index(eos) + 1]
    for draft in (oracle_draft(llava, 2, 0.0), blurred(llava, 2)):
        method = FastVLM(draft, gamma=gamma, topk=3)
        assert generate(llava, inputs, method, COUNT, eos_token_id=eos) == wanted
        assert method.last is not None and method.last.stop == "eos" and method.last.token_ids == wanted


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_token_limit(llava: Any, inputs: Any, expected: list[int], count: int) -> None:
    method = FastVLM(oracle_draft(llava, 2, 0.0), gamma=5, topk=2)
    assert generate(llava, inputs, method, count) == expected[:count]


PROCESSORS = ({"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2})


@pytest.mark.slow
@pytest.mark.parametrize("changes", PROCESSORS, ids=str)
def test_processors_see_each_nodes_prefix(llava: Any, inputs: Any, changes: dict[str, Any]) -> None:
    wanted = generate(llava, inputs, None, COUNT, **changes)
    method = FastVLM(oracle_draft(llava, 2, 0.0), gamma=4, topk=3)
    assert generate(llava, inputs, method, COUNT, **changes) == wanted
    assert method.last is not None and all(r.accepted >= bool(r.drafted) for r in method.last.rounds)


@pytest.mark.slow
def test_sampling_keeps_the_targets_distribution(target: Any, prompt: Any, said: Any) -> None:  # noqa: F811
    method = LayerSkip(1, gamma=2, topk=2, nodes=4, branch_above=0.0)
    found = outputs(target, prompt, method, **options(target, said, max_new_tokens=3))
    wanted = products(target, prompt, said, 3)
    assert sum(found.values()) == pytest.approx(1)
    assert sum(abs(found.get(s, 0.0) - wanted.get(s, 0.0)) for s in {*found, *wanted}) / 2 < 1e-5


TREES = ("qwen2_5_vl",)
MORE = (
    "blip2_t5", "llava_next", "qwen3_5", "mllama",
    "aya_vision", "idefics3", "paligemma2", "blip2", "glm4v", "lfm2_vl", "gemma4", "llama4", "florence2", "qwen3_vl",
    "gemma3", "internvl", "smolvlm", "kosmos2",
)  # fmt: skip


@pytest.mark.slow  # in the default run, trees of a plain decoder and, in test_medusa.py, of families
@pytest.mark.parametrize("name", covering([*TREES, *MORE], TREES))
def test_families(name: str) -> None:
    """Trees of every family are exact, with a head and without, or refused in one line."""
    model, given, _ = build(name)
    wanted, done = plain(model, given, 14), 0
    for exit_layer in range(1, len(decoder_layers(model)), 2):
        for draft in (Draft(exit_layer, None), Draft(exit_layer, copy.deepcopy(new_head("mlp", model, exit_layer)))):
            method = FastVLM(draft, gamma=3, topk=3, branch_above=0.0)
            try:
                model.generate(**given, max_new_tokens=14, do_sample=False, custom_generate=method)
            except UsageError as refusal:
                assert "cannot verify a tree" in str(refusal) and "topk=1" in str(refusal) and "\n" not in str(refusal)
                continue
            assert method.last is not None and method.last.token_ids == wanted
            assert sum(r.drafted for r in method.last.rounds) > 10
            done += 1
    assert done or name not in TREES


def test_levels() -> None:
    """A token joins its level's best if it is likely enough; a level that probably falls is not drafted."""

    class Asked:
        processors: tuple[()] = ()
        placeholders, end_tokens = frozenset({3}), frozenset({4})

    def level(chances: list[float], **given: Any) -> list[int]:
        shape = exit_tree.Shape(**{"depth": 4, "topk": 3, "nodes": 9, "branch_above": 0.2, "stop_below": 0.0} | given)
        logits = torch.tensor(chances).log()[None, None]
        found = exit_tree._next_level(Asked(), shape, Tree([], []), [ROOT], [1.0], logits)  # type: ignore[arg-type]
        return [token for token, _, _ in found]

    unsure = [0.4, 0.3, 0.1, 0.15, 0.05]
    assert level(unsure) == [0, 1, 2] and level(unsure, topk=1) == [0] and level(unsure, nodes=2) == [0, 1]
    assert level([0.9, 0.06, 0.04, 0.0, 0.0]) == [0] and level(unsure, branch_above=0.5) == [0, 1]
    assert level(unsure, stop_below=0.81) == [] and level(unsure, stop_below=0.79) == [0, 1, 2]
    assert level([0.0, 0.0, 0.0, 0.2, 0.8]) == []


def test_bad_options(llava: Any, inputs: Any, batch: Any) -> None:  # noqa: F811
    draft = oracle_draft(llava, 2)
    for given in ({"topk": 0}, {"topk": 2, "branch_above": 1.0}):
        with pytest.raises(ValueError, match="topk must be at least 1 and branch_above within"):
            FastVLM(draft, **given)
    for given in ({"nodes": 4}, {"topk": 1, "branch_above": 0.5}):
        with pytest.raises(UsageError, match="has no effect on a chain: give topk=2"):
            FastVLM(draft, **given)
    with pytest.raises(UsageError, match="one sequence at a time: topk=1, or --batch-size 1"):
        decode(llava, batch, FastVLM(draft, topk=2))
