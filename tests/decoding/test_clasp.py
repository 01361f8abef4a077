"""CLaSp's choice: it skips what adds nothing, layers run as in the pass, the cache stays, some models are refused."""

from typing import Any

import pytest
import torch
from covering import covering
from decoding.test_batch import PROMPTS, decode
from targets import generate, muted_llava
from torch import Tensor

import fastvlm_bench.decoding.clasp as clasp_module
from fastvlm_bench.decoding.clasp import Clasp
from fastvlm_bench.drafters.layer_choice import cache_copy, choose_layers, run_layer
from fastvlm_bench.engine.batch_inputs import collate
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers


@pytest.mark.slow  # in the default run, what is skipped is what the program says when it is written plainly
@pytest.mark.parametrize("idle", [(2, 5), (1, 3, 4), (1,)])
def test_layers_that_add_nothing_are_skipped(inputs: dict[str, Tensor], idle: tuple[int, ...]) -> None:
    """At every choice, after the prompt and after each verification; then each draft is the target's own."""
    target = muted_llava(7, 0.0, idle)[0]
    chosen: list[frozenset[int]] = []

    class Watched(Clasp):
        def _choose(self, *given: Any) -> None:
            super()._choose(*given)
            chosen.append(self._skipped.whole)

    method = Watched(gamma=4, skip=len(idle) / 7, every=1)
    assert generate(target, inputs, method, 24) == generate(target, inputs, count=24)
    assert set(chosen) == {frozenset(idle)} and len(chosen) > 3
    assert method.last is not None and all(r.accepted == r.tested for r in method.last.rounds)


@pytest.mark.slow  # how often layers are chosen changes no output
def test_every(inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    target, asked = muted_llava(7)[0], list[int]()

    def counted(*given: Any) -> frozenset[int]:
        asked.append(given[-1])
        return choose_layers(*given)

    monkeypatch.setattr(clasp_module, "choose_layers", counted)
    for every in (1, 3):
        asked.clear()
        method = Clasp(gamma=2, skip=0.3, every=every)
        generate(target, inputs, method, 16)
        assert method.last is not None
        rounds = len(method.last.rounds)
        assert set(asked) == {2} and 1 + (rounds - 1) // every <= len(asked) <= 1 + rounds // every


def spied(worst: list[float]) -> Any:
    """`choose_layers` that first runs every layer on the full state, beside others, and compares with the pass."""

    def choose(layers: Any, cache: Any, seen: Any, places: Tensor, may: Any, count: int) -> frozenset[int]:
        before = [(layer.keys, layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
        view = cache_copy(cache)
        for index, layer in enumerate(layers):
            own, full = seen.at(index, places)[:, None], seen.at(index + 1, places)
            got = run_layer(layer, index, view, seen, places, torch.cat([own.flip(-1), own, 0.5 * own], dim=1))[:, 1]
            worst.append(float((got - full).abs().max() / full.abs().max()))
        chosen = choose_layers(layers, cache, seen, places, may, count)
        for layer, (keys, same, values) in zip(cache.layers, before, strict=True):
            assert layer.keys is keys and torch.equal(keys, same) and torch.equal(layer.values, values)
        return chosen

    return choose


def test_a_layer_runs_as_in_the_pass(inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    worst: list[float] = []
    monkeypatch.setattr(clasp_module, "choose_layers", spied(worst))
    target = muted_llava(7)[0]
    generate(target, inputs, Clasp(gamma=4, skip=0.3, every=1), 16)
    _, tokenizer = muted_llava(2)
    singles = []
    for prompt in PROMPTS[:3]:
        ids = torch.tensor([tokenizer.encode("<s>USER: " + "<image>" * 36 + prompt, add_special_tokens=False)])
        singles.append({**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)})
    one = len(worst)
    decode(target, collate(singles, 0), Clasp(gamma=4, skip=0.3, every=1), 16)
    assert len(worst) > one > 20 and max(worst) < 1e-4
    target.set_attn_implementation("eager")
    generate(target, inputs, Clasp(gamma=4, skip=0.3, every=1), 16)
    assert max(worst) < 1e-4


@pytest.mark.parametrize(("skip", "count"), covering([(0.2, 2), (0.45, 4), (0.9, 7)], [(0.45, 4)]))
def test_the_choice_is_that_of_the_program_written_plainly(inputs: dict[str, Tensor], skip: float, count: int) -> None:
    """The same dynamic program, a state at a time, with whole prefixes instead of ranges of ways."""
    target = muted_llava(9, 0.5)[0]
    agreed: list[int] = []

    def plain(layers: Any, cache: Any, seen: Any, places: Tensor, may: Any, count: int) -> frozenset[int]:
        ways = {0: (seen.at(0, places), frozenset[int]())}
        for index, layer in enumerate(layers):
            full, after = seen.at(index + 1, places), dict[int, Any]()
            for j in range(count + 1):
                options = []
                if j in ways:
                    state = full if j == 0 else run_layer(
                        layer, index, cache_copy(cache), seen, places, ways[j][0][:, None])[:, 0]  # fmt: skip
                    options.append((state, ways[j][1]))
                if index in may and j - 1 in ways:
                    options.append((ways[j - 1][0], ways[j - 1][1] | {index}))
                if options:
                    alike = [float(torch.cosine_similarity(state, full).mean()) for state, _ in options]
                    after[j] = options[1 if len(options) == 2 and alike[1] >= alike[0] else 0]
            ways = after
        wanted, got = ways[count][1], choose_layers(layers, cache, seen, places, may, count)
        assert got == wanted and len(got) == count
        agreed.append(len(got))
        return got

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clasp_module, "choose_layers", plain)
        generate(target, inputs, Clasp(gamma=4, skip=skip, every=2), 16)
    assert set(agreed) == {count}


def test_models_whose_layers_cannot_be_run_alone_are_refused(
    inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = muted_llava(4)[0]
    text = target.config.get_text_config(decoder=True)
    for key, value, says in (
        ("is_encoder_decoder", True, "encoder-decoder"), ("num_kv_shared_layers", 2, "share keys"),
        ("_attn_implementation_internal", "flash_attention_2", "--attn sdpa"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(text, key, value, raising=False)
            with pytest.raises(UsageError, match=says) as refused:
                Clasp().around(target)
            assert "\n" not in str(refused.value)

    def broken(*_: Any) -> frozenset[int]:
        raise TypeError("no such argument\nand more")

    monkeypatch.setattr(clasp_module, "choose_layers", broken)
    with pytest.raises(UsageError, match=r"TypeError: no such argument\); use swift") as refused:
        generate(target, inputs, Clasp(), 5)
    assert "\n" not in str(refused.value)
    assert all("forward" not in layer.__dict__ for layer in decoder_layers(target))
