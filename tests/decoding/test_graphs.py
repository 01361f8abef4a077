"""The engine `graphs` gives the tokens and the rounds that `eager` gives, and says what it leaves to `eager`."""

import copy
from typing import Any

import pytest
import torch
from covering import covering
from targets import LAYERS, generate, oracle_draft
from torch import Tensor

from fastvlm_bench.checks.engine_check import engine_check
from fastvlm_bench.decoding.adaptive import Adaptive
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.draft_verify import DraftVerify
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.layerskip import LayerSkip
from fastvlm_bench.decoding.prompt_lookup import PromptLookup
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine import graphs, slots
from fastvlm_bench.engine.engine import Eager
from fastvlm_bench.engine.graphs import BLOCK, Graphs
from fastvlm_bench.engine.measure import measure
from fastvlm_bench.engine.method import Method
from fastvlm_bench.models.layers import replaced

COUNT = 24


def counted(method: Method) -> list[list[int]]:
    return [[r.drafted, r.tested, r.accepted, r.emitted] for r in method.last.rounds]  # type: ignore[union-attr]


def both(model: Any, inputs: dict[str, Tensor], method: Method, engine: Graphs, **options: Any) -> list[int]:
    """The tokens of both engines, which must be one and the same, with the same rounds."""
    said, rounds = [], []
    for each in (Eager(), engine):
        method.engine = each
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
}


@pytest.mark.parametrize("name", covering(METHODS, ["standard", "layerskip"]))
def test_every_method(llava: Any, inputs: dict[str, Tensor], name: str) -> None:
    engine = Graphs()
    method = METHODS[name](llava)
    both(llava, inputs, method, engine)
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


# ------------------------------------------------------------------------------------------ what is left to eager


def test_a_batch_is_left_to_eager(llava: Any, inputs: dict[str, Tensor]) -> None:
    engine, method = Graphs(), Standard()
    method.engine = engine
    two = {key: torch.cat([value, value]) for key, value in inputs.items()}
    llava.generate(**two, max_new_tokens=4, do_sample=False, custom_generate=method)
    assert engine.recorded == 0 and "a batch" in next(iter(engine.reasons))
    assert [notice["name"] for notice in engine.notices()] == ["EagerEngine"]


def test_a_head_that_reads_a_number_is_left_to_eager(llava: Any, inputs: dict[str, Tensor]) -> None:
    engine = Graphs()
    method = FastVLM(oracle_draft(llava, 2), gamma=3)  # the tests' own head asks a number whether to spoil a draft
    method.engine = engine
    for _ in range(2):
        assert generate(llava, inputs, method, count=COUNT) == generate(llava, inputs, count=COUNT)
    assert "depends on the numbers in a tensor" in next(iter(engine.reasons))


@pytest.mark.slow
def test_adaptive_with_a_head_that_attends_is_left_to_eager(llava: Any, inputs: dict[str, Tensor]) -> None:
    engine = Graphs()
    for kind, recorded in (("attention", False), ("mlp", True)):
        method = Adaptive(draft(llava, 2, kind), gamma=3)
        method.engine = engine
        assert generate(llava, inputs, method, count=COUNT) == generate(llava, inputs, count=COUNT)
        assert bool(engine.recorded) == recorded


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


def test_a_family_that_fails_on_slots_is_left_to_eager_from_its_first_pass_on(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its code raises: the caches are those that read the prompt, and the answer is complete."""

    def unknown(self: slots.SlotLayer, query_length: int) -> tuple[int, int]:
        raise AttributeError("what is this cache?\nsecond line")

    monkeypatch.setattr(slots.SlotLayer, "get_mask_sizes", unknown)
    for kind in ("raw", "attention"):
        engine = Graphs()
        both(llava, inputs, FastVLM(draft(llava, 2, kind), gamma=3), engine, count=8)
        assert list(engine.reasons) == ["LlavaForConditionalGeneration: AttributeError: what is this cache?"]
