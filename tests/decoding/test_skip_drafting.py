"""Self-drafts that skip sub-layers: whatever is skipped, the output is the target's own, in every kind of decoding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_batch import PROMPTS, decode
from decoding.test_sampling import distance, options, outputs, products
from scipy.stats import chisquare
from targets import generate, muted_llava
from torch import Tensor

from fastvlm_bench.decoding.clasp import Clasp
from fastvlm_bench.decoding.draft_verify import DraftVerify
from fastvlm_bench.decoding.swift import Swift
from fastvlm_bench.drafters.layer_skipping import LayerSkipper, parts_of
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers

COUNT, LAYERS = 24, 7
MIXED = SkipSet(frozenset([1, 2, 4]), frozenset([2, 3]))
METHODS: dict[str, Callable[..., Any]] = {
    "attentions and MLPs": lambda **given: DraftVerify(MIXED, **given),
    "whole layers": lambda **given: DraftVerify(SkipSet.of_layers([2, 3, 5]), **given),
    "nothing": lambda **given: DraftVerify(SkipSet(), **given),
    "swift": lambda **given: Swift(skip=0.3, share=0.5, **given),
    "clasp": lambda **given: Clasp(skip=0.3, every=1, **given),
    "clasp, seldom": lambda **given: Clasp(skip=0.6, every=3, **given),
}


@pytest.fixture(scope="module")
def target() -> Any:
    return muted_llava(LAYERS)[0]


@pytest.fixture(scope="module")
def expected(target: Any, inputs: dict[str, Tensor]) -> list[int]:
    return generate(target, inputs, count=COUNT)


@pytest.mark.parametrize("name", covering(METHODS, ["attentions and MLPs", "clasp"]))
def test_greedy(target: Any, inputs: dict[str, Tensor], expected: list[int], name: str) -> None:
    accepted = rejected = 0
    for given in ({"gamma": 1}, {"gamma": 4}, {"gamma": 9, "stop_below": 0.3}):
        method = METHODS[name](**given)
        assert generate(target, inputs, method, COUNT) == expected
        accepted += sum(done.accepted for done in method.last.rounds)
        rejected += sum(done.tested - done.accepted for done in method.last.rounds)
    assert accepted > 10 and (rejected > 3) == (name != "nothing")


PROCESSORS: list[dict[str, Any]] = [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}]
PROCESSED = [(name, given) for name in METHODS for given in PROCESSORS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"),
    PROCESSED,
)
def test_processors(target: Any, inputs: dict[str, Tensor], name: str, given: dict[str, Any]) -> None:
    wanted = generate(target, inputs, count=20, **given)
    assert generate(target, inputs, METHODS[name](gamma=4), 20, **given) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attentions and MLPs", "swift", "clasp"])
def test_it_stops_at_eos(target: Any, inputs: dict[str, Tensor], expected: list[int], name: str) -> None:
    for place in (1, 2, 5, 8):
        eos = expected[place]
        wanted = expected[: expected.index(eos) + 1]
        assert generate(target, inputs, METHODS[name](gamma=5), COUNT, eos_token_id=eos) == wanted


@pytest.fixture(scope="module")
def singles() -> list[dict[str, Tensor]]:
    _, tokenizer = muted_llava(2)
    made = []
    for seed, prompt in enumerate(PROMPTS):
        ids = torch.tensor([tokenizer.encode("<s>USER: " + "<image>" * 36 + prompt, add_special_tokens=False)])
        pixels = torch.randn(1, 3, 120, 120, generator=torch.Generator().manual_seed(seed))
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels})
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attentions and MLPs", "swift", "clasp"])
def test_batches_with_ragged_acceptance(target: Any, singles: list[dict[str, Tensor]], name: str) -> None:
    batch, wanted = collate(singles, 0), [generate(target, single, count=20) for single in singles]
    assert len({tuple(row) for row in wanted}) == len(wanted)
    method = METHODS[name](gamma=4)
    assert decode(target, batch, method, 20) == wanted
    rows = method.trace.rows
    assert len({tuple(done.accepted for done in row.rounds) for row in rows}) > 1, "acceptance must be ragged"
    rounds = [done for row in rows for done in row.rounds]
    assert sum(done.accepted for done in rounds) > 10 and sum(done.tested - done.accepted for done in rounds) > 3
    # Rows that end at different times, one of them at its first token.
    for eos in (wanted[0][0], wanted[1][6]):
        cut = [row[: row.index(eos) + 1] if eos in row else row for row in wanted]
        assert len({len(row) for row in cut}) > 1
        assert decode(target, batch, METHODS[name](gamma=4), 20, eos_token_id=eos) == cut


@pytest.fixture(scope="module")
def short(target: Any, inputs: dict[str, Tensor]) -> tuple[list[int], dict[str, Any], Any]:
    with torch.inference_mode():
        said = target(**inputs).logits[0, -1].topk(3).indices.tolist()
    return said, options(target, said, max_new_tokens=3), products(target, inputs, said, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attentions and MLPs", "clasp"])
def test_sampling_keeps_the_distribution(target: Any, inputs: dict[str, Tensor], short: Any, name: str) -> None:
    _, given, wanted = short
    assert distance(outputs(target, inputs, METHODS[name](gamma=2), **given), wanted) < 1e-5


@pytest.mark.slow
def test_sampling_while_the_set_changes(target: Any, inputs: dict[str, Tensor], short: Any) -> None:
    """SWIFT remembers, so its draws cannot be enumerated: chi-square against the target's own probabilities."""
    _, given, wanted = short
    method, size = Swift(gamma=2, skip=0.3, share=0.5), 100
    found: dict[tuple[int, ...], int] = {}
    for seed in range(size):
        torch.manual_seed(seed)
        ids = target.generate(**inputs, custom_generate=method, **given)
        said = tuple(ids[0, inputs["input_ids"].shape[1] :].tolist())
        found[said] = found.get(said, 0) + 1
    assert method.known.trials > 2, "the set must have been on the move"
    assert set(found) <= set(wanted)
    likely = [said for said, chance in wanted.items() if chance * size >= 5]
    counts, chances = [found.get(said, 0) for said in likely], [wanted[said] for said in likely]
    counts, chances = [*counts, size - sum(counts)], [*chances, 1 - sum(chances)]
    assert chisquare(counts, [size * chance for chance in chances]).pvalue > 1e-3


def test_phases_tell_drafting_from_verification(target: Any, inputs: dict[str, Tensor]) -> None:
    trace = measure(METHODS["whole layers"](gamma=4), target, inputs, 12, phases=True)
    assert trace.phases is not None
    assert trace.phases["draft_s"] > 0 and trace.phases["verify_s"] > 0


def test_everything_is_restored_and_the_cache_is_as_long_as_before(target: Any, inputs: dict[str, Tensor]) -> None:
    lengths: list[tuple[set[int], set[int]]] = []

    class Watched(DraftVerify):
        def propose(self, session: Any, drafts: Any) -> None:
            before = {layer.get_seq_length() for layer in session.cache.layers}
            super().propose(session, drafts)
            lengths.append((before, {layer.get_seq_length() for layer in session.cache.layers}))

    forwards = [module.__dict__.get("forward") for module in target.modules()]
    generate(target, inputs, Watched(MIXED, gamma=3), 10)
    assert lengths and all(before == after and len(before) == 1 for before, after in lengths)
    assert [module.__dict__.get("forward") for module in target.modules()] == forwards


def test_a_skipped_part_does_not_run(target: Any, inputs: dict[str, Tensor]) -> None:
    """Counted while drafting: the passes of each sub-layer."""
    ran: dict[tuple[int, str], int] = {}
    skipping: list[LayerSkipper] = []

    class Watched(DraftVerify):
        def around(self, model: Any) -> Any:
            context = super().around(model)
            skipping.append(self.skipper)
            return context

    hooks = []
    for index, layer in enumerate(decoder_layers(target)):
        for name, part in (("attention", layer.self_attn.o_proj), ("mlp", layer.mlp.down_proj)):

            def count(*_: Any, key: tuple[int, str] = (index, name)) -> None:
                if skipping[-1].drafting:
                    ran[key] = ran.get(key, 0) + 1

            hooks.append(part.register_forward_hook(count))
    try:
        generate(target, inputs, Watched(MIXED, gamma=3), 10)
    finally:
        for hook in hooks:
            hook.remove()
    assert {i for i in range(LAYERS) if (i, "attention") not in ran} == MIXED.attention
    assert {i for i in range(LAYERS) if (i, "mlp") not in ran} == MIXED.mlp


@pytest.mark.parametrize(
    ("skips", "says"),
    [
        (SkipSet(attention=frozenset([0])), "attention of layer 0"),
        (SkipSet(mlp=frozenset([LAYERS - 1])), "MLP of layer 6"),
        (SkipSet.of_layers([LAYERS + 2]), "layer 9"),
    ],
)
def test_what_must_run_is_not_skipped(target: Any, inputs: dict[str, Tensor], skips: SkipSet, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        generate(target, inputs, DraftVerify(skips), 5)
    assert "1, 2, 3, 4, 5" in str(refused.value) and "\n" not in str(refused.value)


def test_parts_that_cannot_be_told_apart() -> None:
    class Attends(torch.nn.Linear):
        def forward(self, states: Tensor, past_key_values: Any = None) -> Tensor:
            return super().forward(states)

    class Block(torch.nn.Module):
        def __init__(self, *parts: torch.nn.Module) -> None:
            super().__init__()
            for number, part in enumerate(parts):
                self.add_module(str(number), part)

    def mlp() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(2, 2))

    attention, block = Attends(2, 2), mlp()
    assert parts_of(Block(torch.nn.LayerNorm(2), attention, block)) == (attention, block)
    for parts in (
        [Attends(2, 2), Attends(2, 2), mlp()], [mlp(), mlp(), Attends(2, 2)], [Attends(2, 2)],
        [Attends(2, 2), torch.nn.Linear(2, 2)], [Attends(2, 2), torch.nn.Sequential(Attends(2, 2))],
    ):  # fmt: skip
        assert parts_of(Block(*parts)) == (None, None)
