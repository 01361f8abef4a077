"""The engine `graphs` gives the tokens and the rounds that `eager` gives, and says what it leaves to `eager`."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_batch import batch, decode, expected, singles  # noqa: F401 - fixtures
from second_models import given, off, show
from state_heads import new_eagle, train
from targets import LAYERS, generate, oracle_draft, random_llava
from torch import Tensor

from fastvlm_bench.checks.engine_check import engine_check
from fastvlm_bench.checks.self_check import limit_of
from fastvlm_bench.decoding.adaptive import Adaptive
from fastvlm_bench.decoding.block import Block
from fastvlm_bench.decoding.clasp import Clasp
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.draft_model import DraftModel
from fastvlm_bench.decoding.draft_verify import DraftVerify
from fastvlm_bench.decoding.eagle import Eagle1Method
from fastvlm_bench.decoding.eagle3 import Eagle3Method
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.hierarchical import Hierarchical
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.medusa import Medusa
from fastvlm_bench.decoding.prompt_lookup import PromptLookup
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.decoding.swift import Swift
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine import graphs, passing, slots
from fastvlm_bench.engine.engine import Eager
from fastvlm_bench.engine.graphs import BLOCK, Graphs
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.engine.method import Method
from fastvlm_bench.engine.pacing import Pacing
from fastvlm_bench.measuring.bench import Bench
from fastvlm_bench.models.layers import replaced

COUNT = 24


def counted(method: Method) -> list[list[int]]:
    return [[r.drafted, r.tested, r.accepted, r.emitted] for r in method.last.rounds]  # type: ignore[union-attr]


def both(model: Any, inputs: dict[str, Tensor], method: Method, engine: Graphs, **options: Any) -> list[int]:
    """The tokens of both engines, which must be one and the same, with the same rounds."""
    said, rounds = [], []
    for each in (Eager(), engine):
        method.engine = each
        method.reset()
        said.append(generate(model, inputs, method, **{"count": COUNT, **options}))
        rounds.append(counted(method))
    assert said[0] == said[1] and rounds[0] == rounds[1]
    return said[0]


def draft(model: Any, exit_layer: int, kind: str) -> Draft:
    """A head without training: it drafts badly, and the same things each time."""
    torch.manual_seed(0)
    return Draft(exit_layer, None if kind == "raw" else new_head(kind, model, exit_layer))


@pytest.mark.parametrize(("exit_layer", "gamma", "kind"), covering(
    [(n, g, kind) for n in range(1, LAYERS) for g in (1, 3, 8) for kind in ("raw", "mlp", "attention", "eagle")],
    [(1, 3, "attention")],
))  # fmt: skip
def test_every_exit_gamma_and_head(
    llava: Any, inputs: dict[str, Tensor], exit_layer: int, gamma: int, kind: str
) -> None:
    engine = Graphs()
    method = FastVLM(draft(llava, exit_layer, kind), gamma=gamma, stop_below=0.0)
    said = both(llava, inputs, method, engine)
    assert engine.recorded and not engine.reasons
    assert said == generate(llava, inputs, count=COUNT)


METHODS = {
    "standard": lambda model: Standard(),
    "early-exit": lambda model: EarlyExit(draft(model, 3, "raw")),
    "layerskip": lambda model: LayerSkip(LAYERS - 1, gamma=4, stop_below=0.02),
    "control": lambda model: Control(gamma=3),
    "prompt-lookup": lambda model: PromptLookup(max_ngram=1, gamma=4),
    "draft-verify": lambda model: DraftVerify(SkipSet.of_layers([2]), gamma=4),
    "swift": lambda model: Swift(gamma=4, skip=0.2, share=0.3),
    "clasp": lambda model: Clasp(gamma=4, skip=0.2, every=1),
    "hierarchical": lambda model: Hierarchical([draft(model, 1, "mlp"), draft(model, 3, "attention")], each="3"),
    "hierarchical, three": lambda model: Hierarchical(
        [draft(model, 1, "attention"), draft(model, 2, "raw"), draft(model, 4, "raw")], each="2", stop_below=0.02
    ),
    "block": lambda model: Block(draft(model, 3, "block")),
    "block, several": lambda model: Block(draft(model, 3, "block"), gamma=9),
    "block, tree": lambda model: Block(draft(model, 3, "block"), topk=2, nodes=6),
    "tree": lambda model: LayerSkip(LAYERS - 1, gamma=4, topk=3, nodes=12),
    "tree, a head that attends": lambda model: FastVLM(draft(model, 2, "attention"), gamma=3, topk=2),
    "tree, a head that recurs": lambda model: FastVLM(draft(model, 2, "eagle"), gamma=3, topk=3, branch_above=0.0),
    "medusa tree": lambda model: Medusa(draft(model, LAYERS, "medusa"), topk=2, nodes=6),
}


@pytest.mark.parametrize("name", covering(METHODS, ["layerskip"]))
def test_every_method(llava: Any, inputs: dict[str, Tensor], name: str) -> None:
    engine = Graphs()
    method = METHODS[name](llava)
    assert both(llava, inputs, method, engine) == generate(llava, inputs, count=COUNT) or name == "early-exit"
    recorded = engine.recorded
    assert recorded and not engine.reasons
    both(llava, inputs, method, engine)
    assert engine.recorded == recorded, "another generation of the same size repeats what is there"


@pytest.mark.slow
@pytest.mark.parametrize("place", range(1, 8))
def test_an_eos_within_a_round_and_after_it(llava: Any, inputs: dict[str, Tensor], place: int) -> None:
    eos = generate(llava, inputs, count=COUNT)[place]
    both(llava, inputs, LayerSkip(LAYERS - 1, gamma=4), Graphs(), eos_token_id=eos)


@pytest.mark.slow
def test_another_image_and_a_longer_limit(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was recorded with one sample holds for others. A longer one has slots, and passes, of its own."""
    monkeypatch.setattr(graphs, "BLOCK", 8)
    engine, method, count = Graphs(), LayerSkip(LAYERS - 1, gamma=4), 12
    both(llava, inputs, method, engine, count=count)
    few = engine.recorded
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(-1) * 2}
    assert both(llava, other, method, engine, count=count) != generate(llava, inputs, count=count)
    assert engine.recorded - few <= 2, "at most widths that did not occur before"
    few = engine.recorded
    both(llava, inputs, method, engine, count=count + 8)
    assert engine.recorded > few


def test_sampling_draws_the_same_from_the_same_numbers(llava: Any, inputs: dict[str, Tensor]) -> None:
    method, said = LayerSkip(LAYERS - 1, gamma=4), []
    for engine in (Eager(), Graphs()):
        method.engine = engine
        torch.manual_seed(3)
        said.append(llava.generate(**inputs, max_new_tokens=COUNT, do_sample=True, custom_generate=method).tolist())
    assert said[0] == said[1]


def test_phases_know_repeated_passes(llava: Any, inputs: dict[str, Tensor]) -> None:
    method = LayerSkip(2, gamma=3)
    method.engine = Graphs()
    for _ in range(2):
        trace = measure(method, llava, inputs, COUNT, phases=True)
    assert trace.phases is not None
    draft_s, verify_s = trace.phases["draft_s"], trace.phases["verify_s"]
    assert draft_s and verify_s and draft_s + verify_s < trace.decode_s
    assert sum(r.draft_s for r in trace.rows[0].rounds) == pytest.approx(draft_s, rel=0.5)


def test_slots_lie_in_the_cache_that_is_measured(llava: Any, inputs: dict[str, Tensor]) -> None:
    method = Standard()
    method.engine = Graphs()
    trace = measure(method, llava, inputs, COUNT)
    text = llava.config.get_text_config(decoder=True)
    assert trace.cache_bytes == 2 * LAYERS * text.num_key_value_heads * text.head_dim * BLOCK * 4


BESIDE = [(name, options) for name in ("eagle", "eagle3", "draft-model")
          for options in ({}, {"eos": 9}, {"stop_below": 0.02})]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"), covering(BESIDE, [("eagle3", {}), ("draft-model", {"stop_below": 0.02})]), ids=str
)
def test_what_drafts_beside_the_target_is_recorded_too(
    llava: Any, inputs: dict[str, Tensor], name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """The same tokens and rounds; and once all is recorded, the drafter's module is called for the prompt alone."""
    said, engine = generate(llava, inputs, count=COUNT), Graphs()
    eos = {"eos_token_id": said[options["eos"]]} if "eos" in options else {}
    more = {key: value for key, value in options.items() if key != "eos"}
    if name == "draft-model":
        module = off(llava, 0.03)
        target = given(llava, random_llava(2)[1])
        method: Any = DraftModel(given(module, target.processor, inputs), target=target, gamma=4, **more)
        show(method)
    else:
        module = new_eagle(llava, tmp_path / "head", name, 120 if name == "eagle3" else None)
        train(module, llava, inputs, said)
        method = (Eagle3Method if name == "eagle3" else Eagle1Method)(draft=module, gamma=4, **more)
    found = both(llava, inputs, method, engine, **eos)
    assert found == said[: said.index(eos["eos_token_id"]) + 1] if eos else found == said
    assert sum(r.accepted for r in method.last.rounds) > 2 and not engine.reasons
    recorded, calls = engine.recorded, list[bool]()
    with module.register_forward_pre_hook(lambda *_: calls.append(True)):
        assert generate(llava, inputs, method, count=COUNT, **eos) == found
    assert engine.recorded == recorded and len(calls) == 1


@pytest.mark.slow  # in the default run, a head that reads one, below
def test_a_drafter_that_reads_a_number_goes_on_by_its_own_passes(
    llava: Any, inputs: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = new_eagle(llava, tmp_path / "head", "eagle", None)
    embed, engine = type(head).embed, Graphs()
    monkeypatch.setattr(type(head), "embed", lambda self, tokens: embed(self, tokens * bool((tokens >= 0).all())))
    method = Eagle1Method(draft=head, gamma=3)
    for _ in range(2):
        assert both(llava, inputs, method, engine) == generate(llava, inputs, count=COUNT)
    assert list(engine.reasons) == ["Eagle1: aten.is_nonzero.default depends on the numbers in a tensor"]
    assert engine.recorded, "the target's passes are recorded all the same"


IN_A_BATCH = {
    "standard": lambda model: Standard(),
    "control": lambda model: Control(gamma=3),
    "attention": lambda model: FastVLM(draft(model, 2, "attention"), gamma=5),
    "eagle": lambda model: FastVLM(draft(model, 1, "eagle"), gamma=3),
    "layerskip": lambda model: LayerSkip(LAYERS - 1, gamma=4),
    "prompt-lookup": lambda model: PromptLookup(max_ngram=1, gamma=4),
    "swift": lambda model: Swift(gamma=4, skip=0.2, share=0.3),
    "medusa": lambda model: Medusa(draft(model, LAYERS, "medusa")),
}


@pytest.mark.parametrize("name", covering(IN_A_BATCH, ["layerskip"]))
def test_rows_of_a_batch(llava: Any, singles: Any, batch: dict[str, Tensor], name: str) -> None:  # noqa: F811
    """Rows of other lengths, which end at other times, as `eager` decodes them; `test_batch.py` has every case."""
    engine, method = Graphs(), IN_A_BATCH[name](llava)
    eos = generate(llava, singles[1], count=COUNT)[7]
    for options in ({}, {"eos_token_id": eos}):
        found = []
        for each in (Eager(), engine):
            method.engine = each
            method.reset()
            said = decode(llava, batch, method, COUNT, **options)
            found.append((said, [[(r.drafted, r.accepted) for r in row.rounds] for row in method.trace.rows]))
        assert found[0] == found[1] and (not options or len({len(row) for row in said}) > 1)
    recorded = engine.recorded
    assert recorded and not engine.reasons
    decode(llava, batch, method, COUNT, eos_token_id=eos)
    assert engine.recorded == recorded or name == "swift", "another batch of the same size repeats what is there"


# ------------------------------------------------------------------------------------------ what is left to eager


def test_clasp_in_a_batch_is_left_to_eager(llava: Any, batch: dict[str, Tensor]) -> None:  # noqa: F811
    engine, method = Graphs(), Clasp(gamma=3)
    method.engine = engine
    decode(llava, batch, method, 4)
    assert engine.recorded == 0 and "Clasp decodes a batch by eager" in next(iter(engine.reasons))
    assert [notice["name"] for notice in engine.notices()] == ["EagerEngine"]


def test_a_head_that_reads_a_number_is_left_to_eager(llava: Any, inputs: dict[str, Tensor]) -> None:
    engine = Graphs()
    method = FastVLM(oracle_draft(llava, 2), gamma=3)  # the tests' own head asks a number whether to spoil a draft
    method.engine = engine
    for _ in range(2):
        assert generate(llava, inputs, method, count=COUNT) == generate(llava, inputs, count=COUNT)
    assert "depends on the numbers in a tensor" in next(iter(engine.reasons))


class Changing(DraftVerify):
    """Skips other layers in each round."""

    passes_by, turn = True, 0

    def reset(self) -> None:
        self.turn = 0

    def skip_set(self, session: Any) -> SkipSet:
        self.turn += 1
        return SkipSet(frozenset({1 + self.turn % 3}), frozenset({1 + self.turn // 3 % 3}))


@pytest.mark.slow  # what is worth a recording is decided by numbers, below
def test_layers_that_change_again_and_again_are_left_to_eager(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first passes run on the slots as they are, and only verification is recorded. Then the method is given up."""
    monkeypatch.setattr(passing, "JUDGED", 12)
    engine, method = Graphs(), Changing(SkipSet(), gamma=1)
    for reasons in (1, 1):
        both(llava, inputs, method, engine)
        assert len(engine.reasons) == reasons and 1 <= engine.recorded <= 2
    assert "so often that 0% of its drafting passes were repetitions" in next(iter(engine.reasons))


def test_a_kind_that_passes_by_is_recorded_once_it_has_run_often(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "WORTH", 3)
    engine, method = Graphs(), DraftVerify(SkipSet.of_layers([2]), gamma=4)
    monkeypatch.setattr(DraftVerify, "passes_by", property(lambda self: self.drafting))
    both(llava, inputs, method, engine)
    assert engine.passing(method).recorded == 1 and not engine.reasons
    assert engine.passing(method).share > 0.5


def test_the_passes_of_one_generation_decide_what_is_recorded() -> None:
    """So a generation that is decoded once more records nothing more, and settles."""
    known = passing.Passing()
    for _ in range(3):
        known.begin()
        assert [known.worth("a") for _ in range(passing.WORTH - 1)] == [False] * (passing.WORTH - 1)
    assert known.worth("a") and known.recorded == 1
    for kind in range(passing.MOST + 1):
        for _ in range(passing.WORTH):
            recorded = known.worth(kind)
        assert recorded == (kind < passing.MOST - 1), "no more than so many kinds"


@pytest.mark.parametrize("recorded", [0, 2])
def test_a_generation_that_is_dropped_is_forgotten(recorded: int) -> None:
    """It is decoded once more, and a method that learns would know its text and its clock twice."""

    class Learning(Standard):
        def __init__(self) -> None:
            super().__init__()
            self.known = ["before"]

        def memory(self) -> list[str]:
            return list(self.known)

        def recall(self, memory: list[str]) -> None:
            self.known = list(memory)

    class Once(Bench):
        def _decode(self, built: Any, suite: Any, prepared: Any, **options: Any) -> Any:
            built.method.known.append(f"attempt {len(decoded)}")
            self.engine.recorded += len(decoded) < recorded
            decoded.append(built)

    decoded = list[Any]()
    bench, built = Once.__new__(Once), SimpleNamespace(method=Learning())
    bench.engine = Graphs()
    bench.decode(built, None, None)  # type: ignore[arg-type]
    assert len(decoded) == recorded + 1 and built.method.known == ["before", f"attempt {recorded}"]


@pytest.mark.parametrize("kind", covering(["attention", "eagle"], ["eagle"]))
def test_a_head_that_attends_catches_up_after_plain_rounds(llava: Any, inputs: dict[str, Tensor], kind: str) -> None:
    """In passes of few widths: what it then drafts is what `eager` drafts. `test_adaptive.py` has every order."""

    class Turns(Pacing):
        def drafts(self, before: int) -> bool:
            return before % 12 > 8

        def worth(self, chance: float) -> bool:
            return True

    class Adapting(Adaptive):
        def reset(self) -> None:
            self.pacing = Turns(32)

    engine = Graphs()
    both(llava, inputs, Adapting(draft(llava, 2, kind), gamma=3), engine)
    assert engine.recorded and not engine.reasons


class Hooked(Standard):
    """Counts by a hook what a layer is given, and says nothing of it."""

    def begin(self, session: Any) -> None:
        self.calls = 0
        layer = session.model.model.language_model.layers[1]
        session.model.hooked = layer.register_forward_pre_hook(lambda *_: setattr(self, "calls", self.calls + 1))


class Replacing(Standard):
    """Replaces a part of a layer by itself, and has no key for it."""

    def around(self, model: Any) -> Any:
        mlp = model.model.language_model.layers[1].mlp
        return replaced([(mlp, mlp.forward)])


def test_a_method_that_does_not_say_what_it_does_in_a_pass_is_left_to_eager(
    llava: Any, inputs: dict[str, Tensor]
) -> None:
    engine, hooked, replacing = Graphs(), Hooked(), Replacing()
    for method in (hooked, replacing):
        method.engine = engine
        try:
            generate(llava, inputs, method, count=6)
        finally:
            if hasattr(llava, "hooked"):
                llava.hooked.remove()
                del llava.hooked
    assert hooked.calls == 5 and engine.recorded == 0
    assert ["no carrier" in engine_reason or "no pass_key" in engine_reason for engine_reason in engine.reasons] == [
        True, True,
    ]  # fmt: skip


def test_a_model_that_keeps_a_tensor_of_each_generation_is_left_to_eager(inputs: dict[str, Tensor], llava: Any) -> None:
    """It would be repeated as it was when it was recorded, for every later sample."""
    model, engine, method = copy.deepcopy(llava), Graphs(), Standard()
    text, shift = model.model.language_model, {"now": torch.zeros(1)}
    text.norm.register_forward_hook(lambda _, __, out: out + shift["now"])
    method.engine = engine
    assert generate(model, inputs, method, count=8) == generate(llava, inputs, count=8)
    assert "is no weight" in next(iter(engine.reasons)) and engine.recorded == 0


@pytest.mark.parametrize("count", covering([2, 3, 5], [2]))
def test_the_check_knows_rounding_however_short_the_answer_is(
    llava: Any, inputs: dict[str, Tensor], count: int
) -> None:
    """What is let in is twice what blocks of this model move its logits, not the last place of the largest alone."""
    found = engine_check(llava, inputs, Graphs(), count)
    ulps = limit_of(0.0, 1.0, llava.dtype)
    assert found.passed and found.limit > 1.5 * ulps, found


def test_a_mutant_whose_slots_start_too_early_is_seen(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def early(self: slots.Slots, count: int) -> None:
        self.columns = self.start + torch.arange(count) - 1

    monkeypatch.setattr(slots.Slots, "open", early)
    found = engine_check(llava, inputs, Graphs(), 6)
    assert not found.passed and found.difference > 100 * found.limit
    monkeypatch.undo()
    found = engine_check(llava, inputs, Graphs(), 6)
    assert found.passed and found.outcome == "identical" and str(found).startswith("identical, logits differ by ")


@pytest.mark.slow  # in the default run, other models are left to eager, above
def test_a_family_that_fails_on_slots_is_left_to_eager_from_its_first_pass_on(
    llava: Any,
    inputs: dict[str, Tensor],
    expected: Any,  # noqa: F811
    batch: dict[str, Tensor],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever its code raises: the caches are those that read the prompt, and the answer is complete."""

    def unknown(self: slots.SlotLayer, *given: Any) -> Any:
        raise AttributeError("what is this cache?\nsecond line")

    for asked in ("get_mask_sizes", "update"):
        monkeypatch.setattr(slots.SlotLayer, asked, unknown)
    # The first pass may read one token, or drafts or a tree as well, and the rows of a batch.
    drafts = [FastVLM(draft(llava, 2, "raw"), gamma=3), FastVLM(draft(llava, 2, "attention"), gamma=3)]
    at_the_end = [Medusa(draft(llava, LAYERS, "medusa"), **given) for given in ({}, {"topk": 2, "nodes": 5})]
    for method in (*drafts, *at_the_end):
        engine = Graphs()
        both(llava, inputs, method, engine, count=8)
        assert list(engine.reasons) == ["LlavaForConditionalGeneration: AttributeError: what is this cache?"]
    at_the_end[0].engine = engine = Graphs()
    assert decode(llava, batch, at_the_end[0], 8) == [row[:8] for row in expected]
    assert list(engine.reasons) == ["LlavaForConditionalGeneration: AttributeError: what is this cache?"]
