"""A short training on a random instance of each family: the loss falls, the draft saves, loads and decodes exactly."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from covering import covering
from families.builders import FAMILIES, SEVERAL_STREAMS, build, vary
from families.others import gemma4
from torch import Tensor

from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft, describe_target
from fastvlm_bench.drafts.manifest import Manifest
from fastvlm_bench.errors import BenchError, UsageError
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.preflight import usable_exits
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.trainer import HeadTrainer

FAST = ("gemma3",)
"""Sliding windows; the other tests of this room train on a LLaVA."""
COUNT = 24
NO_ATTENTION_HEAD = {"paligemma2": (2,), "mllama": (2,)}
"""As in tests/families: exits at which a copied layer makes no head."""


class GivenTarget(Target):
    """A target without a processor: prompt and image are tensors, as the family's processor would give them."""

    given: dict[str, Tensor]

    def encode(self, image: Any, prompt: str) -> dict[str, Any]:
        return dict(self.given)


def given_of(model: Any, inputs: dict[str, Tensor]) -> GivenTarget:
    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2)
    target = GivenTarget("given", model, SimpleNamespace(tokenizer=tokenizer), torch.device("cpu"), None)
    target.given = inputs
    return target


def given(name: str) -> tuple[GivenTarget, list[Example]]:
    """The family's target and two texts, the second a part of the first, so that packing has to pad."""
    model, inputs, expected = build(name)
    target = given_of(model, inputs)
    sample = TrainingSample(f"{name}/0", "0", "", partial(lambda: None))  # type: ignore[arg-type]
    return target, [Example(sample, tuple(expected), False), Example(sample, tuple(expected[:15]), False)]


@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES if n not in SEVERAL_STREAMS],
)
def test_training(name: str, tmp_path: Path) -> None:
    target, texts = given(name)
    model, inputs, expected = target.model, target.given, list(texts[0].answer)
    kinds = ["mlp"] if name in NO_ATTENTION_HEAD else ["mlp", "attention"]
    recipes = [Recipe.parse(kind, exit_layer=2) for kind in kinds]
    trainer = HeadTrainer(target, recipes, lr=0.3, updates=20, micro=2)
    trainer.prepare(texts)
    losses = [trainer.update(texts) for _ in range(10)]
    for student in trainer.students:
        assert losses[-1][student.name] < 0.95 * losses[0][student.name], (student.name, losses)
        checked = trainer.check(texts[:1])[student.name][0]
        manifest = Manifest(
            exit_layer=2, head=student.recipe.head, head_parameters=1, **describe_target(model)
        )  # fmt: skip
        Draft(2, student.head, manifest).save(tmp_path / student.name)
        method = FastVLM.from_pretrained(tmp_path / student.name, model, gamma=4)
        model.generate(**inputs, max_new_tokens=COUNT, do_sample=False, custom_generate=method)
        assert method.last is not None and method.last.token_ids == expected
        # What the loop accepted is what training counted along the text.
        at, differing = 0, 0
        for r in method.last.rounds:
            told = checked.right[at : at + r.tested]
            differing += sum(right != (i < r.accepted) for i, right in enumerate(told))
            at += r.emitted
        assert differing <= 1, "float16 on disk may turn a close call"


@pytest.mark.slow  # it guards the builders of the tests, not the tool
def test_heads_differ() -> None:
    """The raw exit is not the target: there is something to learn in these builds."""
    model, inputs, expected = build("llava")
    method = FastVLM(Draft(2, new_head("mlp", model, 2)), gamma=4)
    model.generate(**inputs, max_new_tokens=COUNT, do_sample=False, custom_generate=method)
    assert method.last is not None and sum(r.accepted for r in method.last.rounds) < COUNT // 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL_STREAMS)
def test_several_streams_are_refused(name: str) -> None:
    target, texts = given(name)
    trainer = HeadTrainer(target, [Recipe.parse("mlp", exit_layer=2)], lr=0.3, updates=20, micro=2)
    with pytest.raises(BenchError, match="several streams of states"):
        trainer.prepare(texts)


def shared_kv() -> tuple[GivenTarget, list[Example]]:
    """Gemma 4 whose last two layers take the KV of layer 1, and read only the end of a prompt."""
    torch.manual_seed(0)
    model, inputs = gemma4(shared=2)
    expected = vary(model, inputs, COUNT)
    target, (sample, *_) = given_of(model, inputs), [TrainingSample("g/0", "0", "", partial(lambda: None))]  # type: ignore[arg-type]
    return target, [Example(sample, tuple(expected), False), Example(sample, tuple(expected[:15]), False)]


@pytest.mark.slow
def test_shared_kv_is_trained_at_its_exit_and_refused_beyond() -> None:
    target, texts = shared_kv()
    sample = texts[0].sample
    assert usable_exits(target, sample, [1, 2, 3, 4], some=True) == [1]
    with pytest.raises(UsageError, match="no draft can be trained for it: .* use an exit layer of at most 1$"):
        usable_exits(target, sample, [1, 2])
    trainer = HeadTrainer(target, [Recipe.parse(k, exit_layer=1) for k in ("mlp", "attention")], lr=0.3, updates=20,
                          micro=2)  # fmt: skip
    trainer.prepare(texts)
    losses = [trainer.update(texts) for _ in range(6)]
    assert all(losses[-1][name] < 0.97 * losses[0][name] for name in losses[0]), losses
    trainer = HeadTrainer(target, [Recipe.parse("eagle", exit_layer=1)], lr=0.3, updates=20, micro=2)
    with pytest.raises(BenchError, match="a head that recurs reads their states of all"):
        trainer.prepare(texts)


@pytest.mark.slow  # in the default run, heads of a plain decoder have two routes
@pytest.mark.parametrize("kind", covering(["attention", "eagle"], ["eagle"]))
def test_recurrent_layers_are_trained_through_by_both_routes(kind: str) -> None:
    """A head that copies a recurrent layer gets the same gradients by both routes, packed and through the cache."""
    target, texts = given("qwen3_5")
    gradients = []
    for packs in (True, False):
        trainer = HeadTrainer(target, [Recipe.parse(kind, exit_layer=2)], lr=0.0, updates=20, micro=2)
        trainer.prepare(texts)
        assert trainer.observer.packs, "padding on the right does not reach a recurrent state"
        trainer.observer.packs = packs
        trainer.update(texts)
        gradients.append({k: p.grad for k, p in trainer.students[0].head.named_parameters() if p.grad is not None})
    one_pass, by_the_cache = gradients
    assert one_pass.keys() == by_the_cache.keys() and any("linear_attn" in key for key in one_pass)
    for key, gradient in one_pass.items():
        assert (gradient - by_the_cache[key]).abs().max() <= 1e-3 * gradient.abs().max() + 1e-6, key
