"""Medusa's chains and trees: the output is the target's own whatever the heads say, and they read the right state."""

import inspect
from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_batch import COUNT as BATCH_COUNT
from decoding.test_batch import batch, decode, singles  # noqa: F401 - fixtures
from decoding.test_batch import expected as each  # noqa: F401 - a fixture
from decoding.test_sampling import Distribution, options, outputs, products, prompt, said, target  # noqa: F401 - fixtures
from families.builders import build, plain
from scipy.stats import chisquare
from targets import LAYERS, generate
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from fastvlm_bench.decoding.medusa import Medusa, product_tree
from fastvlm_bench.drafts.heads import MedusaHeads, new_head
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest
from fastvlm_bench.drafts.reduced_vocabulary import ReducedOutput
from fastvlm_bench.engine import choosing
from fastvlm_bench.engine import session as session_module
from fastvlm_bench.engine import tree as tree_module
from fastvlm_bench.engine.drafting import Drafts
from fastvlm_bench.engine.session import Session
from fastvlm_bench.engine.tree import ROOT, Tree
from fastvlm_bench.errors import UsageError

COUNT, HEADS = 36, 4


def random_heads(model: Any, seed: int = 0, size: float = 0.3, **options: int) -> Draft:
    heads = new_head("medusa", model, 0, {"heads": HEADS, **options})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in heads.blocks:  # type: ignore[union-attr]
            block.weight.copy_(torch.randn(block.weight.shape, generator=generator) * size)
    return Draft(LAYERS, heads)


class Known(Medusa):
    """Medusa whose heads know the text, but are wrong, or only nearly right, at a share of the places.

    In each round it checks that the state to draft from is the one from which the target chose each row's last token.
    """

    def __init__(self, model: Any, texts: Sequence[Sequence[int]], spoiled: float = 0.3, **given: Any) -> None:
        super().__init__(random_heads(model), **given)
        self.texts, self.spoiled, self.generator = texts, spoiled, torch.Generator().manual_seed(3)
        self.trees = list[Tree]()

    def propose(self, session: Session, drafts: Drafts) -> None:
        self.session = session
        super().propose(session, drafts)

    def tree(self, session: Session) -> Tree:
        self.session = session
        self.trees.append(super().tree(session))
        return self.trees[-1]

    def _logits(self) -> Tensor:
        rows = self.session.rows
        if not len(self.session.processors):
            assert self.states.output_of(self._root).argmax(-1).tolist() == [row.tokens[-1] for row in rows]
        logits = torch.randn(super()._logits().shape, generator=self.generator)
        for at, row in enumerate(rows):
            for place in range(self.places):
                text, where = self.texts[row.place], len(row.tokens) + place
                luck = float(torch.rand((), generator=self.generator)) / max(self.spoiled, 1e-9)
                if where < len(text) and luck > 0.5:  # else it is wrong; below 1 its second choice is right
                    most = logits[at, place].max()
                    logits[at, place, text[where]] = most - 1e-3 if luck < 1 else 20.0
        return logits


@pytest.fixture(scope="module")
def expected(llava: Any, inputs: dict[str, Any]) -> list[int]:
    return generate(llava, inputs, count=COUNT)


SHAPES: list[dict[str, Any]] = [
    {}, {"gamma": 1}, {"gamma": 2, "stop_below": 0.005}, {"topk": 2, "nodes": 5}, {"topk": 4}
]  # fmt: skip
CASES = [(shape, {}) for shape in SHAPES] + [
    (shape, changes) for shape in (SHAPES[0], SHAPES[3])
    for changes in ({"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2})
]  # fmt: skip


@pytest.mark.parametrize(("shape", "changes"), covering(CASES, [CASES[0], CASES[8]]), ids=str)
def test_it_is_standard_decoding(llava: Any, inputs: Any, shape: dict[str, Any], changes: dict[str, Any]) -> None:
    wanted = generate(llava, inputs, count=COUNT, **changes)
    method = Known(llava, [wanted], **shape)
    assert generate(llava, inputs, method, COUNT, **changes) == wanted
    assert method.last is not None
    rounds = method.last.rounds
    accepted, rejected = sum(r.accepted for r in rounds), sum(r.tested - r.accepted for r in rounds)
    assert accepted > 5 and rejected > 1, "drafts must stand and fall"
    assert 1 + sum(r.emitted for r in rounds) == len(wanted)
    most = shape.get("nodes", 16) if "topk" in shape else min(shape.get("gamma", HEADS), HEADS)
    assert all(r.accepted <= r.tested <= r.drafted <= most for r in rounds)
    if "topk" in shape:
        assert any(len(set(tree.parents)) < len(tree) for tree in method.trees), "a tree must fork"
        assert all(max(tree.depths, default=0) <= HEADS for tree in method.trees)


HEADS_OF_ITS_OWN = [(draft, topk) for draft in ({}, {"own_output": 1}, "reduced") for topk in (1, 3)]


@pytest.mark.slow
@pytest.mark.parametrize(("draft", "topk"), HEADS_OF_ITS_OWN, ids=str)
def test_heads_of_its_own(llava: Any, inputs: Any, expected: list[int], draft: Any, topk: int) -> None:
    made = random_heads(llava, **({} if draft == "reduced" else draft))
    if draft == "reduced":
        made.output = ReducedOutput(llava.get_output_embeddings(), torch.tensor(sorted({*expected[::2], 5, 6, 7})))
    assert generate(llava, inputs, Medusa(made, topk=topk), COUNT) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("place", "topk"), list(product((1, 5, 12), (1, 3))))
def test_eos_and_limits(llava: Any, inputs: Any, expected: list[int], place: int, topk: int) -> None:
    eos = expected[place]
    wanted = expected[: expected.index(eos) + 1]
    for spoiled in (0.0, 0.3):
        method = Known(llava, [expected], spoiled, topk=topk)
        assert generate(llava, inputs, method, COUNT, eos_token_id=eos) == wanted
        assert method.last is not None and method.last.stop == "eos"
        assert not any(tree.tokens[parent] == eos for tree in method.trees for parent in tree.parents if parent != ROOT)
        assert generate(llava, inputs, Known(llava, [expected], spoiled, topk=topk), place + 1) == expected[: place + 1]


@pytest.mark.slow  # in the default run, drafts stand and fall
def test_perfect_heads_draft_everything(llava: Any, inputs: Any, expected: list[int]) -> None:
    for topk in (1, 2):
        method = Known(llava, [expected], 0.0, topk=topk)
        assert generate(llava, inputs, method, COUNT) == expected and method.last is not None
        assert [r.accepted for r in method.last.rounds] == [HEADS] * ((COUNT - 1) // (HEADS + 1))


@pytest.mark.slow
def test_doubt_leaves_out(llava: Any, inputs: Any, expected: list[int]) -> None:
    """The product of the probabilities counts: certain heads draft on, uncertain ones are not asked further."""
    drafted = []
    for spoiled in (0.0, 1.0):
        method = Known(llava, [expected], spoiled, stop_below=0.5)
        assert generate(llava, inputs, method, COUNT) == expected and method.last is not None
        drafted.append(sum(r.drafted for r in method.last.rounds))
    assert drafted[0] > 20 and drafted[1] == 0


BATCHES = [(shape, ends) for shape in ({}, {"gamma": 2}, {"stop_below": 0.3}) for ends in (False, True)]


@pytest.mark.parametrize(("shape", "ends"), covering(BATCHES, [({"gamma": 2}, True)]), ids=str)
def test_batches(llava: Any, batch: Any, each: Any, shape: dict[str, Any], ends: bool) -> None:  # noqa: F811
    eos = [each[0][6], each[2][15]] if ends else []
    wanted = [row[: next((i + 1 for i, t in enumerate(row) if t in eos), BATCH_COUNT)] for row in each]
    method = Known(llava, each, **shape)
    assert decode(llava, batch, method, **({"eos_token_id": eos} if ends else {})) == wanted
    assert method.trace is not None
    rows = method.trace.rows
    assert len({tuple(r.accepted for r in row.rounds) for row in rows}) > 1, "acceptance must be ragged"
    assert sum(r.accepted for row in rows for r in row.rounds) > 15


@pytest.mark.slow
def test_batches_with_processors(llava: Any, batch: Any, singles: Any) -> None:  # noqa: F811
    given = {"logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])}
    wanted = [generate(llava, single, count=BATCH_COUNT, **given) for single in singles]
    method = Known(llava, wanted)
    assert decode(llava, batch, method, **given) == wanted
    assert method.trace is not None and sum(r.accepted for row in method.trace.rows for r in row.rounds) > 15


def test_image_placeholders_are_never_drafted(
    llava: Any, inputs: Any, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    token, drafted = expected[6], list[int]()
    monkeypatch.setattr(session_module, "PLACEHOLDERS", ("pretended_id",))
    monkeypatch.setattr(llava.config, "pretended_id", token, raising=False)

    class Watched(Known):
        def verified(self, session: Session, outputs: Any, drafts: Drafts, standing: Any) -> None:
            drafted.extend(drafts.tokens[0])
            super().verified(session, outputs, drafts, standing)

    for topk in (1, 3):
        method = Watched(llava, [expected], 0.0, topk=topk)
        assert generate(llava, inputs, method, COUNT) == expected
        drafted += [one for tree in method.trees for one in tree.tokens]
    assert len(drafted) > 40 and token not in drafted


TREES = ("qwen2_5_vl",)
CHAINS = ("qwen3_5",)
MORE = (
    "blip2_t5", "llava", "aya_vision", "mllama", "llava_next", "idefics3", "paligemma2", "blip2", "glm4v", "lfm2_vl",
    "gemma4",
    "llama4", "florence2", "qwen3_vl", "gemma3", "internvl", "smolvlm", "kosmos2",
)  # fmt: skip


@pytest.mark.parametrize("name", [*TREES, *CHAINS, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE)])
def test_families(name: str) -> None:
    """Chains of every family are exact; trees are, or they are refused in one line."""
    model, given, _ = build(name)
    wanted = plain(model, given, 20)
    trees = 0
    for topk in (1, 3):
        method = Known(model, [wanted], topk=topk)
        try:
            model.generate(**given, max_new_tokens=20, do_sample=False, custom_generate=method)
        except UsageError as refusal:
            assert topk > 1 and "cannot verify a tree" in str(refusal) and "topk=1" in str(refusal), refusal
            assert "\n" not in str(refusal)
            continue
        assert method.last is not None and method.last.token_ids == wanted
        assert sum(r.accepted for r in method.last.rounds) > 3 and sum(r.drafted for r in method.last.rounds) > 10
        trees += topk > 1
    assert trees == 1 or name not in TREES


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key", "value"), [("paligemma2", "final_logit_softcapping", 3.0)])
def test_what_follows_the_lm_head(name: str, key: str, value: float) -> None:
    """The heads' logits are capped as the model caps its own, so that their probabilities mean the same."""
    model, given, _ = build(name)
    setattr(model.config.get_text_config(decoder=True), key, value)

    class Looks(Medusa):
        def propose(self, session: Session, drafts: Drafts) -> None:
            seen.append((self.states.logits(self.states.output_of(self._root)), self._logits().abs().max()))

    seen: list[Any] = []
    heads = random_heads(model)
    made = model.generate(**given, max_new_tokens=6, do_sample=False, custom_generate=Looks(heads))
    told = model.generate(**given, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True)
    assert made.tolist() == told.sequences.tolist()
    for (root, most), own in zip(seen, told.logits, strict=False):
        assert torch.allclose(root, own.float(), atol=1e-4) and most <= value


# ------------------------------------------------------------------------------------------ sampling


def enumerated(target: Any, prompt: Any, method: Any, **given: Any) -> Distribution:  # noqa: F811
    """As `outputs` of test_sampling.py, with the draws of trees enumerated, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_module, "draw", lambda weights: choosing.draw(weights))
        return outputs(target, prompt, method, **given)


@pytest.mark.parametrize("shape", covering([{"gamma": 2}, {"topk": 3, "nodes": 4}], [{"gamma": 2}]), ids=str)
def test_sampling_keeps_the_targets_distribution(target: Any, prompt: Any, said: Any, shape: Any) -> None:  # noqa: F811
    """Every output's probability, over all that may be drawn, is the product of the target's own."""
    method = Medusa(random_heads(target, size=0.05), **shape)
    found = enumerated(target, prompt, method, **options(target, said, max_new_tokens=3))
    wanted = products(target, prompt, said, 3)
    assert sum(found.values()) == pytest.approx(1)
    assert sum(abs(found.get(s, 0.0) - wanted.get(s, 0.0)) for s in {*found, *wanted}) / 2 < 1e-5


@pytest.mark.slow  # test_sampling.py has such mutants in the default run
def test_a_draft_drawn_from_elsewhere_would_be_seen(target: Any, prompt: Any, said: Any) -> None:  # noqa: F811
    class Wrong(Medusa):
        """Says of its drafts that every token was as likely, though they were drawn from the heads' distributions."""

        def propose(self, session: Session, drafts: Drafts) -> None:
            super().propose(session, drafts)
            session._drawn_from = [torch.full_like(q, 1 / len(said)) for q in session._drawn_from]

    given = options(target, said, max_new_tokens=3)
    wanted = products(target, prompt, said, 3)
    found = enumerated(target, prompt, Wrong(random_heads(target, size=0.05), gamma=2), **given)
    assert sum(abs(found.get(s, 0.0) - wanted.get(s, 0.0)) for s in {*found, *wanted}) / 2 > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("topk", [1, 3])
def test_a_thousand_draws(target: Any, prompt: Any, said: Any, topk: int) -> None:  # noqa: F811
    given, wanted, size = options(target, said, max_new_tokens=3), products(target, prompt, said, 3), 1000
    counts = dict.fromkeys(wanted, 0)
    for seed in range(size):
        torch.manual_seed(seed)
        ids = target.generate(**prompt, custom_generate=Medusa(random_heads(target, size=0.05), topk=topk), **given)
        counts[tuple(ids[0, prompt["input_ids"].shape[1] :].tolist())] += 1
    assert chisquare(list(counts.values()), [size * wanted[s] for s in counts]).pvalue > 1e-3


# ------------------------------------------------------------------------------------------ parts


def test_the_best_paths_of_the_product() -> None:
    """Compared with all paths, enumerated: the chosen nodes are the most probable, and each has its parent."""
    generator = torch.Generator().manual_seed(0)
    for count in (1, 4, 9, 14):
        chances = torch.rand(3, 3, generator=generator).sort(descending=True).values
        candidates = [[(7 + rank, float(chance)) for rank, chance in enumerate(row)] for row in chances]
        paths = {
            tuple(pair[0] for pair in path): prod(pair[1] for pair in path)
            for depth in (1, 2, 3) for path in product(*candidates[:depth])
        }  # fmt: skip
        tree = product_tree(candidates, count)
        found = []
        for node, parent in enumerate(tree.parents):
            found.append((*(found[parent] if parent != ROOT else ()), tree.tokens[node]))
        best = sorted(paths, key=lambda path: -paths[path])[:count]
        assert sorted(found) == sorted(best)
        least = sorted(paths.values())[-3]
        assert len(product_tree(candidates, count, least)) == min(3, count)
    assert product_tree([[(5, 0.9), (6, 0.1)], [(7, 1.0)]], 9, ends={5}).tokens == [5, 6, 7]
    assert len(product_tree([[(5, 1.0), (6, 0.0)], []], 9)) == 1 and len(product_tree([], 9)) == 0


def test_heads_are_the_authors(llava: Any) -> None:
    """x + SiLU(W x + b), alone or joined, which share their weights; untrained they give the target's next token."""
    heads = random_heads(llava, seed=1).head
    assert isinstance(heads, MedusaHeads)
    states = torch.randn(2, heads.width)
    rows = [states + torch.nn.functional.silu(states @ b.weight.T + b.bias) for b in heads.blocks]  # type: ignore
    for made in (heads(states), heads.ahead(states, HEADS)):
        assert torch.allclose(made, torch.stack(rows, dim=1), atol=1e-5)
    assert torch.allclose(heads.ahead(states, 2), heads(states)[:, :2], atol=1e-5)
    with torch.no_grad():
        heads.blocks[1].weight.mul_(2)
    assert torch.allclose(heads.ahead(states, HEADS), heads(states), atol=1e-5), "a change of either is one of both"
    heads.double()
    assert torch.allclose(heads.ahead(states.double(), HEADS), heads(states.double()))
    fresh = new_head("medusa", llava, 0, {"own_output": 1})
    assert isinstance(fresh, MedusaHeads) and len(fresh.blocks) == 5
    output = llava.get_output_embeddings()
    for own in (output, None):
        found = (fresh.through(fresh(states), own) if own is None else output(fresh(states))).argmax(-1)
        assert (found == output(states).argmax(-1)[:, None]).all()


def test_one_transfer_for_all_drafts(llava: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafting reads the device once a round, however many heads there are, with or without a stop."""
    real, asked, drafting = Tensor.tolist, [0], [False]

    class Counts(Medusa):
        def propose(self, session: Session, drafts: Drafts) -> None:
            drafting[0] = True
            super().propose(session, drafts)
            drafting[0] = False

    def tolist(self: Tensor) -> Any:
        asked[0] += drafting[0]
        return real(self)

    monkeypatch.setattr(Tensor, "tolist", tolist)
    for stop_below in (0.0, 0.01):
        asked[0], method = 0, Counts(random_heads(llava), stop_below=stop_below)
        generate(llava, inputs, method, 12)
        assert method.last is not None and 0 < asked[0] <= len(method.last.rounds)


def saved(llava: Any, folder: Path, **changes: Any) -> Path:
    manifest = Manifest(
        **{"exit_layer": LAYERS, "head": "medusa", "head_parameters": 1, "head_options": {"heads": HEADS},
           **describe_target(llava), **changes}
    )  # fmt: skip
    Draft(LAYERS, random_heads(llava).head, manifest).save(folder)
    return folder


def test_a_model_that_makes_its_own_masks_is_refused(llava: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kosmos-2 unpacks the mask's shape into two: its configuration does not tell, so the first tree does."""
    real = llava.forward

    def forward(*given: Any, attention_mask: Tensor | None = None, **rest: Any) -> Any:
        if attention_mask is not None:
            _, _ = attention_mask.shape
        return real(*given, attention_mask=attention_mask, **rest)

    forward.__signature__ = inspect.signature(real)  # type: ignore[attr-defined]
    monkeypatch.setattr(llava, "forward", forward)
    with pytest.raises(
        UsageError, match="cannot verify a tree of drafts .it takes no 4-D mask: too many values.*topk=1"
    ) as found:
        generate(llava, inputs, Medusa(random_heads(llava), topk=2), 8)
    assert "\n" not in str(found.value)


def test_saved_and_loaded(llava: Any, inputs: Any, expected: list[int], tmp_path: Path) -> None:
    method = Medusa.from_pretrained(saved(llava, tmp_path / "m"))
    assert generate(llava, inputs, method, COUNT) == expected
    again = Medusa.from_pretrained(tmp_path / "m", llava, gamma=2, topk=2, nodes=3)
    assert generate(llava, inputs, again, COUNT) == expected
    assert method.draft_for(llava).weight_bytes == sum(p.numel() * 4 for p in random_heads(llava).head.parameters())


def test_bad_options(llava: Any, inputs: Any, batch: Any, tmp_path: Path) -> None:  # noqa: F811
    draft = random_heads(llava)
    for given in ({"gamma": 0}, {"topk": 0}, {"stop_below": 1.0}):
        with pytest.raises(ValueError, match="must be at least|within"):
            Medusa(draft, **given)
    with pytest.raises(UsageError, match="nodes=4 has no effect on a chain: give topk=2"):
        Medusa(draft, nodes=4)
    with pytest.raises(UsageError, match="head of kind MlpHead, not medusa heads"):
        generate(llava, inputs, Medusa(Draft(2, new_head("mlp", llava, 2))), 4)
    with pytest.raises(UsageError, match="one sequence at a time: topk=1, or --batch-size 1"):
        decode(llava, batch, Medusa(draft, topk=2))
