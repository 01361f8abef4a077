"""`hierarchical`: at every hierarchy of exits, γ and EOS place the output is the target's own, greedily and sampled."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_sampling import distance, options, outputs, products, prompt, said  # noqa: F401 - fixtures
from families.builders import build, plain
from targets import LAYERS, generate, oracle_draft, random_llava

from fastvlm_bench.decoding import hierarchical
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hierarchical import Hierarchical, levels_of
from fastvlm_bench.drafters import levels as levels_module
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.reduced_vocabulary import ReducedOutput, most_frequent
from fastvlm_bench.engine import accept, choosing
from fastvlm_bench.errors import UsageError
from fastvlm_bench.method_spec import MethodSpec
from fastvlm_bench.models.layers import decoder_layers

EXITS, COUNT = range(1, LAYERS), 26
HIERARCHIES = [exits for count in (1, 2, 3, 4) for exits in combinations(EXITS, count)]


def oracles(model: Any, exits: Any, spoiled: float = 0.25) -> list[Draft]:
    """The lower the exit, the more often its oracle is wrong."""
    top = len(exits) - 1
    return [oracle_draft(model, layer, spoiled * (1 + top - i) / 2, seed=i) for i, layer in enumerate(exits)]


@pytest.fixture(scope="module")
def expected(llava: Any, inputs: dict[str, Any]) -> list[int]:
    return generate(llava, inputs, None, COUNT)


CASES = list(product(HIERARCHIES, (1, 3, 8)))
QUICK = [((2, 4), 3), ((1, 2, 4), 8)]


@pytest.mark.parametrize(("exits", "gamma"), covering(CASES, QUICK))
def test_it_is_standard_decoding(
    llava: Any, inputs: Any, expected: list[int], exits: tuple[int, ...], gamma: int
) -> None:
    method = Hierarchical(oracles(llava, exits), each="2", gamma=gamma)
    assert generate(llava, inputs, method, COUNT) == expected
    assert method.last is not None
    rounds = method.last.rounds
    assert 1 + sum(r.emitted for r in rounds) == COUNT and all(r.emitted == r.accepted + 1 for r in rounds)
    assert sum(r.accepted for r in rounds) > 5
    for r in rounds:
        assert len(r.levels) == len(exits) - 1
        assert all(accepted <= tested <= drafted for drafted, tested, accepted in r.levels)
    checked = [sum(r.levels[i][1] - r.levels[i][2] for r in rounds) for i in range(len(exits) - 1)]
    assert all(checked), "each level must reject now and then"


@pytest.mark.parametrize("exits", covering([[1, 2], [1, 3], [2, 4], [1, 2, 4]], [[1, 2, 4]]), ids=str)
def test_perfect_levels_never_reject(llava: Any, inputs: Any, expected: list[int], exits: list[int]) -> None:
    """So the KV of every layer and head is that of the text, after whatever passes: rejections below spoil nothing."""
    drafts = [oracle_draft(llava, exits[0], 0.5), *(oracle_draft(llava, layer, 0.0) for layer in exits[1:])]
    method = Hierarchical(drafts, each="2", gamma=5)
    assert generate(llava, inputs, method, COUNT) == expected and method.last is not None
    rounds = method.last.rounds
    assert all(r.tested == r.accepted for r in rounds), "the last level is the target's own"
    assert all(r.levels[i][1] == r.levels[i][2] for r in rounds for i in range(1, len(exits) - 1))
    assert sum(r.levels[0][1] - r.levels[0][2] for r in rounds) > 2


@pytest.mark.slow  # in the default run, two and three levels say what the target says
@pytest.mark.parametrize("stop_below", covering([0.0, 0.1], [0.1]))
def test_one_level_is_fastvlm(llava: Any, inputs: Any, expected: list[int], stop_below: float) -> None:
    found = []
    for method in (
        FastVLM(oracle_draft(llava, 2), gamma=4, stop_below=stop_below),
        Hierarchical([oracle_draft(llava, 2)], gamma=4, stop_below=stop_below),
    ):
        assert generate(llava, inputs, method, COUNT) == expected and method.last is not None
        found.append([(r.drafted, r.tested, r.accepted, r.emitted, list(r.rejected)) for r in method.last.rounds])
    assert found[0] == found[1]


@pytest.mark.parametrize("head", covering(["linear", "mlp", "attention", "twig", None], ["attention"]))
def test_heads(llava: Any, inputs: Any, expected: list[int], head: str | None) -> None:
    torch.manual_seed(3)
    drafts = [
        Draft(layer, new_head(head, llava, layer, {"depth": 2} if head == "twig" else {}) if head else None)
        for layer in (1, 2)
    ]
    method = Hierarchical(drafts, each="3", gamma=4)
    assert generate(llava, inputs, method, 14) == expected[:14]
    with pytest.raises(UsageError, match=r"head at exit 2 \(EagleHead\) reads its own states .* take another head"):
        generate(llava, inputs, Hierarchical([Draft(1, None), Draft(2, new_head("eagle", llava, 2))]), 4)


@pytest.mark.slow
@pytest.mark.parametrize("stop_below", [0.02, 0.3, 0.9])
def test_doubt(llava: Any, inputs: Any, expected: list[int], stop_below: float) -> None:
    method = Hierarchical(oracles(llava, (1, 2, 4)), each="3", gamma=6, stop_below=stop_below)
    assert generate(llava, inputs, method, COUNT) == expected


PLACES = range(1, 12)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_eos_at_each_place(llava: Any, inputs: Any, expected: list[int], place: int) -> None:
    eos = expected[place]
    wanted = expected[: expected.index(eos) + 1]
    for spoiled, exits in ((0.0, (1, 3)), (0.4, (1, 2, 4))):
        method = Hierarchical(oracles(llava, exits, spoiled), each="2", gamma=1 + place % 6)
        assert generate(llava, inputs, method, COUNT, eos_token_id=eos) == wanted
        assert method.last is not None and method.last.stop == "eos" and method.last.token_ids == wanted


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_token_limit(llava: Any, inputs: Any, expected: list[int], count: int) -> None:
    for spoiled in (0.0, 0.5):
        method = Hierarchical(oracles(llava, (1, 2, 4), spoiled), each="2", gamma=9)
        assert generate(llava, inputs, method, count) == expected[:count]


PROCESSORS = ({"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2})


@pytest.mark.slow
@pytest.mark.parametrize("changes", PROCESSORS, ids=str)
def test_processors_see_the_right_prefix(llava: Any, inputs: Any, changes: dict[str, Any]) -> None:
    wanted = generate(llava, inputs, None, COUNT, **changes)
    method = Hierarchical(oracles(llava, (1, 3), 0.0), each="2", gamma=5)
    assert generate(llava, inputs, method, COUNT, **changes) == wanted
    assert method.last is not None and all(r.tested == r.accepted for r in method.last.rounds)


@pytest.mark.slow  # in the default run, levels reject for other reasons
def test_a_reduced_vocabulary(llava: Any, inputs: Any, expected: list[int]) -> None:
    drafts = oracles(llava, (1, 3), 0.0)
    drafts[0].output = ReducedOutput(llava.get_output_embeddings(), most_frequent([expected], 8, always=[2]))
    method = Hierarchical(drafts, each="2", gamma=5)
    assert generate(llava, inputs, method, COUNT) == expected and method.last is not None
    assert all(r.tested == r.accepted for r in method.last.rounds), "only the lowest level lacks tokens"
    assert sum(r.levels[0][1] - r.levels[0][2] for r in method.last.rounds) > 0


# ------------------------------------------------------------------------------------------ sampling


@pytest.fixture(scope="module")
def target() -> Any:
    return random_llava(3)[0]


def enumerated(target: Any, prompt: Any, method: Any, **given: Any) -> Any:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels_module, "draw", lambda weights: choosing.draw(weights))
        return outputs(target, prompt, method, **given)


SAMPLED: list[dict[str, Any]] = [
    {"gamma": 2, "each": "1"}, {"gamma": 1, "each": "2"}, {"gamma": 2, "each": "1", "stop_below": 0.45},
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shape", SAMPLED, ids=str)
def test_sampling_keeps_the_targets_distribution(target: Any, prompt: Any, said: Any, shape: Any) -> None:  # noqa: F811
    """By enumeration of every draw and coin of every level."""
    given = options(target, said, max_new_tokens=3)
    method = Hierarchical([Draft(1, None), Draft(2, None)], **shape)
    assert distance(enumerated(target, prompt, method, **given), products(target, prompt, said, 3)) < 1e-5


@pytest.mark.slow
def test_testing_against_the_lowest_levels_distribution_would_be_seen(target: Any, prompt: Any, said: Any) -> None:  # noqa: F811
    """What a level has checked is distributed as the level says, no longer as the one below."""

    class Wrong(levels_module.Levels):
        def _check(self, level: int, base: int) -> None:
            kept = list(self.chances)
            super()._check(level, base)
            for place in range(base, min(len(kept), len(self.tokens))):
                if self.tokens[place] and kept[place][self.tokens[place]] > 0:
                    self.chances[place] = kept[place]

    given = options(target, said, max_new_tokens=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hierarchical, "Levels", Wrong)
        found = enumerated(target, prompt, Hierarchical([Draft(1, None), Draft(2, None)], each="1", gamma=2), **given)
    assert accept.accept_greedy([1], [1]) == 1
    assert distance(found, products(target, prompt, said, 3)) > 1e-3


# ------------------------------------------------------------------------------------------ families, options


FULL = ("qwen2_5_vl", "blip2_t5")
QUICK_FAMILIES = ("qwen2_5_vl", "qwen3_5")
REFUSED = ("qwen3_5",)
MORE = (
    "mllama", "llava_next", "idefics3", "paligemma2", "blip2", "glm4v", "lfm2_vl", "gemma4", "llama4", "florence2",
    "qwen3_vl", "gemma3", "internvl", "smolvlm", "kosmos2",
)  # fmt: skip


@pytest.mark.parametrize("name", covering([*FULL, *REFUSED, *MORE], QUICK_FAMILIES))
def test_families(name: str) -> None:
    """Exact with every family whose cache can be cut back at will; others are refused in one line."""
    model, given, _ = build(name)
    wanted, last = plain(model, given, 12), len(decoder_layers(model)) - 1
    for exits in ((1, last), (1, 2, last)):
        method = Hierarchical([Draft(layer, None) for layer in exits], each="2", gamma=4)
        try:
            model.generate(**given, max_new_tokens=12, do_sample=False, custom_generate=method)
        except UsageError as refusal:
            assert name not in FULL and "\n" not in str(refusal) and "use fastvlm" in str(refusal)
            continue
        assert method.last is not None and method.last.token_ids == wanted and name not in REFUSED
        assert sum(r.drafted for r in method.last.rounds) > 10


class Target:
    id = "tiny"

    def __init__(self, model: Any) -> None:
        self.model, self.layers = model, decoder_layers(model)


def test_options(llava: Any, inputs: Any, tmp_path: Path) -> None:
    target: Any = Target(llava)
    for exits in ([2, 1], [1, 1], [0, 2], [1, LAYERS]):
        with pytest.raises(UsageError, match=r"must be exits that rise within 1 \.\. 4 of tiny"):
            levels_of(exits, [], None, target)
    assert [draft.exit_layer for draft in levels_of([1, 3], [], None, target)] == [1, 3]
    with pytest.raises(UsageError, match="comes without a draft"):
        levels_of([1, 3], ["mlp"], None, target)
    with pytest.raises(UsageError, match="must be one kind, or one for each of the 3 levels"):
        levels_of([1, 2, 3], ["mlp", "raw"], None, target)
    for each in ("1+2", "0"):
        with pytest.raises(UsageError, match="one number of at least 1, or one for each of the 1 levels"):
            Hierarchical([Draft(1, None), Draft(3, None)], each=each)
    with pytest.raises(ValueError, match="gamma must be at least 1"):
        Hierarchical([Draft(1, None)], gamma=0)
    two = {key: value.expand(2, *value.shape[1:]).clone() for key, value in inputs.items()}
    with pytest.raises(UsageError, match="Hierarchical decodes one sequence at a time, and got 2"):
        llava.generate(**two, max_new_tokens=4, do_sample=False, custom_generate=Hierarchical([Draft(1, None)]))
    assert MethodSpec.parse("hierarchical:levels=1+4,each=2").options["levels"] == "1+4"
    assert MethodSpec.parse("hierarchical:levels=1+4,head=raw+mlp").options["head"] == "raw+mlp"
    with pytest.raises(UsageError, match="one of raw, linear, .* or several joined by"):
        MethodSpec.parse("hierarchical:levels=1+4,head=raw+lmp")
    for wrong in ("levels=", "levels=1-4", "levels=+4", "levels=0+4"):
        with pytest.raises(UsageError, match="whole numbers of at least 1, joined by"):
            MethodSpec.parse(f"hierarchical:{wrong}")
    with pytest.raises(UsageError, match="needs levels="):
        MethodSpec.parse("hierarchical")
