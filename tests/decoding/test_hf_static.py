"""Under the engine `graphs`, `hf-generate` has transformers' static cache, or says why not."""

from typing import Any

import pytest
import torch
from targets import generate
from torch import Tensor
from transformers import StaticCache
from transformers.generation import CompileConfig

from fastvlm_bench.checks.engine_check import static_check
from fastvlm_bench.decoding import hf_generate
from fastvlm_bench.decoding.hf_generate import HfGenerate
from fastvlm_bench.engine.engine import Eager
from fastvlm_bench.engine.graphs import BLOCK, Graphs
from fastvlm_bench.engine.measure import measure

COUNT = 12


@pytest.fixture(autouse=True)
def static_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_generate, "STATIC_ON", {"cpu"})


def test_on_a_cpu_where_nothing_is_compiled_it_keeps_its_growing_cache(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(StaticCache, "update", lambda *_, **__: pytest.fail("a static cache"))
    engine = Graphs()
    method = under(engine)
    static_check(llava, inputs, method, engine, COUNT)
    assert said(llava, inputs, method) == generate(llava, inputs, count=COUNT) and not engine.reasons


def under(engine: Eager) -> HfGenerate:
    method = HfGenerate()
    method.engine = engine
    return method


def said(model: Any, inputs: dict[str, Tensor], method: HfGenerate, **options: Any) -> list[int]:
    return measure(method, model, dict(inputs), COUNT, generation={"do_sample": False, **options}).rows[0].token_ids


def test_its_cache_is_static_and_its_text_the_same(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    updates, update = list[str](), StaticCache.update
    monkeypatch.setattr(StaticCache, "update", lambda self, *a, **k: updates.append("") or update(self, *a, **k))
    engine, expected = Graphs(), generate(llava, inputs, count=COUNT)
    assert said(llava, inputs, under(Eager())) == expected and not updates
    method = under(engine)
    assert said(llava, inputs, method) == expected and updates
    assert not engine.reasons and engine.recorded == 0
    trace = measure(method, llava, dict(inputs), COUNT)
    text = llava.config.get_text_config(decoder=True)
    slots = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * BLOCK * 4
    assert trace.cache_bytes is not None and trace.cache_bytes >= slots, "as many slots as graphs has"


def test_a_batch_with_an_early_end(llava: Any, inputs: dict[str, Tensor]) -> None:
    two = {key: torch.cat([value, value]) for key, value in inputs.items()}
    two["pixel_values"][1] = two["pixel_values"][1].flip(-1) * 2
    eos = generate(llava, inputs, count=COUNT)[4]
    found = [measure(under(each), llava, dict(two), COUNT, generation={"do_sample": False, "eos_token_id": eos})
             for each in (Eager(), Graphs())]  # fmt: skip
    rows = [[row.token_ids for row in trace.rows] for trace in found]
    assert rows[0] == rows[1] and len(rows[0][0]) < COUNT


def test_where_the_static_cache_fails_the_growing_one_decodes_and_a_warning_says_so(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = list[int]()

    def unknown(self: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(1)
        raise AttributeError("what is this cache?\nsecond line")

    monkeypatch.setattr(StaticCache, "update", unknown)
    engine, expected = Graphs(), generate(llava, inputs, count=COUNT)
    method = under(engine)
    for _ in range(2):
        assert said(llava, inputs, method) == expected
    assert len(tried) == 1, "it is not tried again"
    (notice,) = engine.notices()
    why = "fails for LlavaForConditionalGeneration (AttributeError: what is this cache?), so its growing cache"
    assert notice["name"] == "EagerEngine" and why in notice["message"]


def test_a_model_that_prepares_another_cache_than_it_was_asked_for_is_told(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(llava), "_supports_default_dynamic_cache", classmethod(lambda cls: False))
    engine, expected = Graphs(), generate(llava, inputs, count=COUNT)
    assert said(llava, inputs, under(engine)) == expected
    assert "(ValueError: generate prepared a NoneType)" in next(iter(engine.reasons))


def test_a_failure_that_is_not_the_caches_is_the_samples_own(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Graphs()
    monkeypatch.setattr(llava.lm_head, "forward", lambda *_: (_ for _ in ()).throw(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        said(llava, inputs, under(engine))
    assert not engine.reasons


def test_a_static_cache_that_gives_another_text_is_found_by_the_check(
    llava: Any, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    update = StaticCache.update
    for broken in (False, True):
        engine = Graphs()
        method = under(engine)
        if broken:
            monkeypatch.setattr(StaticCache, "update", lambda self, k, v, *a, **o: update(self, k * 0, v, *a, **o))
        static_check(llava, inputs, method, engine, COUNT)
        assert bool(engine.reasons) == broken
        assert (engine.refusal(method) is not None) == broken
    assert "gives another text (" in next(iter(engine.reasons))
    assert said(llava, inputs, method) == generate(llava, inputs, count=COUNT)


@pytest.mark.slow
def test_what_transformers_compiles_is_counted(llava: Any, inputs: dict[str, Tensor]) -> None:
    """As on a GPU, with a compiler that changes nothing. The first generation compiles, and so is not to be timed."""
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    engine, expected = Graphs(), generate(llava, inputs, count=COUNT)
    method, counts = under(engine), list[int]()
    for _ in range(3):
        assert said(llava, inputs, method, compile_config=config) == expected
        counts.append(engine.recorded)
    assert 0 < counts[0] <= counts[1] == counts[2] and engine.record_s > 0 and not engine.reasons
