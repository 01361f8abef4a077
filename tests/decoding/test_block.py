"""`block`: whatever a block says, the output is the target's own at every exit, γ and EOS place, or refused."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_sampling import distance, options, outputs, products, prompt, said, target  # noqa: F401 - fixtures
from families.builders import build, plain
from targets import LAYERS, generate
from torch import Tensor

from fastvlm_bench.decoding.block import Block
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.heads import BlockHead, new_head
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest
from fastvlm_bench.errors import UsageError

EXITS, COUNT, PLACES = range(1, LAYERS), 26, 4


def random_block(model: Any, exit_layer: int, seed: int = 0, places: int = PLACES) -> Draft:
    """An untrained head whose places differ."""
    head = new_head("block", model, exit_layer, {"places": places})
    generator = torch.Generator().manual_seed(seed)
    assert isinstance(head, BlockHead)
    with torch.no_grad():
        for block in head.blocks:
            block.weight.copy_(torch.randn(block.weight.shape, generator=generator) * 0.1)  # type: ignore[operator]
    return Draft(exit_layer, head)


class Known(Block):
    """A block that knows the text, but for a share of its places."""

    def __init__(self, draft: Draft, text: list[int], spoiled: float = 0.25, **given: Any) -> None:
        super().__init__(draft, **given)
        self.text, self.spoiled, self.generator = text, spoiled, torch.Generator().manual_seed(3)
        self.asked = 0

    def _blocks(self, session: Any) -> Any:
        self.at = len(session.new_tokens)
        return super()._blocks(session)

    def _tree(self, session: Any) -> Any:
        self.at = len(session.new_tokens)
        return super()._tree(session)

    def _said(self, session: Any, logits: Tensor) -> Tensor:
        assert logits.shape[:2] == (1, min(PLACES, max(session.remaining - 1, 1)))
        self.asked += 1
        made = torch.randn(logits.shape, generator=self.generator)
        for place in range(logits.shape[1]):
            if self.at < len(self.text):
                lucky = float(torch.rand((), generator=self.generator)) >= self.spoiled
                made[0, place, self.text[self.at]] = 20.0 if lucky else made[0, place].max() - 1e-3
            self.at += 1
        return made


@pytest.fixture(scope="module")
def expected(llava: Any, inputs: dict[str, Any]) -> list[int]:
    return generate(llava, inputs, None, COUNT)


SHAPES: list[dict[str, Any]] = [
    {}, {"gamma": 1}, {"gamma": 3}, {"gamma": 9}, {"gamma": 12, "least": 0.3}, {"topk": 3}, {"topk": 2, "nodes": 5},
]  # fmt: skip


@pytest.mark.parametrize(
    ("exit_layer", "shape"), covering(product(EXITS, range(len(SHAPES))), [(1, 0), (4, 3), (2, 5)])
)
def test_it_is_standard_decoding(llava: Any, inputs: Any, expected: list[int], exit_layer: int, shape: int) -> None:
    given = SHAPES[shape]
    method = Known(random_block(llava, exit_layer), expected, **given)
    assert generate(llava, inputs, method, COUNT) == expected and method.last is not None
    rounds = method.last.rounds
    assert 1 + sum(r.emitted for r in rounds) == COUNT
    assert sum(r.accepted for r in rounds) > 5
    if given.keys() <= {"gamma"}:  # a tree has the second choice, too, and doubt leaves out what would fall
        assert sum(r.tested - r.accepted for r in rounds) > 0
    most = given.get("nodes", 16) if "topk" in given else given.get("gamma", PLACES)
    assert all(r.drafted <= most for r in rounds)
    blocks = 1 if "topk" in given else -(-given.get("gamma", PLACES) // PLACES)
    assert method.asked <= blocks * len(rounds)


@pytest.mark.parametrize("given", covering([{}, {"gamma": 9}, {"topk": 3, "nodes": 7}], [{"gamma": 9}]), ids=str)
def test_it_drafts_as_after_a_prefill(
    llava: Any, inputs: Any, expected: list[int], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a head that attends: after rounds in which drafts fell, a block is that of a prompt with these tokens."""
    seen: list[tuple[int, Tensor]] = []
    real = Block._said

    def watched(self: Any, session: Any, logits: Tensor) -> Tensor:
        seen.append((session.length, logits[0].clone()))  # a recorded pass writes over its logits
        return real(self, session, logits)

    monkeypatch.setattr(Block, "_said", watched)
    draft = random_block(llava, 2)
    assert generate(llava, inputs, Block(draft, **given), 14) == expected[:14]
    made = list(seen)
    for length, logits in (made[2], made[-3]):
        first = next(row for at, row in made if at == length)
        emitted = length - inputs["input_ids"].shape[1]
        ids = torch.cat([inputs["input_ids"], torch.tensor([expected[: emitted - 1]], dtype=torch.long)], dim=1)
        seen.clear()
        generate(llava, {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}, Block(draft, **given), 12)
        count = min(len(first), len(seen[0][1]), len(logits))  # the last blocks before the limit are shorter
        assert count > 1 and torch.allclose(seen[0][1][:count], first[:count], atol=1e-3), "the KV of layers and head"


@pytest.mark.slow  # in the default run, both say what the target says
def test_its_first_place_is_what_fastvlm_drafts(llava: Any, inputs: Any, expected: list[int]) -> None:
    found = []
    for method in (FastVLM(random_block(llava, 3), gamma=1), Block(random_block(llava, 3), gamma=1)):
        assert generate(llava, inputs, method, COUNT) == expected and method.last is not None
        found.append([(r.drafted, r.accepted, list(r.rejected)) for r in method.last.rounds])
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("place", range(1, 12))
def test_eos_at_each_place(llava: Any, inputs: Any, expected: list[int], place: int) -> None:
    eos = expected[place]
    wanted = expected[: expected.index(eos) + 1]
    shape = ({}, {"gamma": 9}, {"topk": 3})[place % 3]
    for spoiled in (0.0, 0.4):
        method = Known(random_block(llava, 2), expected, spoiled, **shape)
        assert generate(llava, inputs, method, COUNT, eos_token_id=eos) == wanted
        assert method.last is not None and method.last.stop == "eos" and method.last.token_ids == wanted


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_token_limit(llava: Any, inputs: Any, expected: list[int], count: int) -> None:
    for shape in ({}, {"gamma": 9}, {"topk": 2}):
        assert generate(llava, inputs, Known(random_block(llava, 2), expected, 0.0, **shape), count) == expected[:count]


@pytest.mark.slow
def test_processors(llava: Any, inputs: Any) -> None:
    wanted = generate(llava, inputs, None, COUNT, repetition_penalty=1.3)
    for shape in ({"gamma": 6}, {"topk": 3}):
        method = Known(random_block(llava, 2), wanted, **shape)
        assert generate(llava, inputs, method, COUNT, repetition_penalty=1.3) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("shape", [{"gamma": 2}, {"topk": 2, "nodes": 3}], ids=str)
def test_sampling_keeps_the_targets_distribution(target: Any, prompt: Any, said: Any, shape: Any) -> None:  # noqa: F811
    method = Block(random_block(target, 1, places=2), **shape)
    found = outputs(target, prompt, method, **options(target, said, max_new_tokens=3))
    assert distance(found, products(target, prompt, said, 3)) < 1e-5


FAMILIES = ("qwen2_5_vl",)
MORE = (
    "blip2_t5", "llava_next", "mllama", "qwen3_5", "gemma3", "paligemma2", "lfm2_vl", "kosmos2", "internvl", "smolvlm",
    "blip2",
)  # fmt: skip


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE)])
def test_families(name: str) -> None:
    model, given, _ = build(name)
    wanted = plain(model, given, 12)
    for shape in ({"gamma": 6}, {"topk": 3}):
        method = Known(random_block(model, 2), wanted, **shape)
        try:
            model.generate(**given, max_new_tokens=12, do_sample=False, custom_generate=method)
        except UsageError as refusal:
            assert "topk" in shape and "cannot verify a tree" in str(refusal), refusal
            continue
        assert method.last is not None and method.last.token_ids == wanted
        assert sum(r.accepted for r in method.last.rounds) > 2


def test_saved_loaded_and_refused(llava: Any, inputs: Any, expected: list[int], tmp_path: Path) -> None:
    draft = random_block(llava, 2)
    told = Manifest(exit_layer=2, head="block", head_parameters=1, head_options={"places": PLACES},
                    **describe_target(llava))  # fmt: skip
    Draft(2, draft.head, told).save(tmp_path / "b")
    method = Block.from_pretrained(tmp_path / "b")
    assert generate(llava, inputs, method, COUNT) == expected and method.gamma == PLACES
    with pytest.raises(UsageError, match="head of kind MlpHead, not block; use fastvlm, or train block"):
        generate(llava, inputs, Block(Draft(2, new_head("mlp", llava, 2))), 4)
    two = {key: value.expand(2, *value.shape[1:]).clone() for key, value in inputs.items()}
    with pytest.raises(UsageError, match="Block decodes one sequence at a time"):
        llava.generate(**two, max_new_tokens=4, do_sample=False, custom_generate=Block(draft))
