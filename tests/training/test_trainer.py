"""Heads learn on a frozen target, whatever is trained beside them and however their batch is cut."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from covering import covering
from torch import Tensor

from fastvlm_bench.drafts.heads import HEADS
from fastvlm_bench.errors import BenchError
from fastvlm_bench.models.fingerprint import weights_sha256
from fastvlm_bench.models.load import Target
from fastvlm_bench.training import trainer as module
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.refine import BOOST
from fastvlm_bench.training.trainer import HeadTrainer, out_of_memory

OPTIONS: dict[str, Any] = {"lr": 1e-2, "updates": 60, "micro": 8}


def new_trainer(target: Target, recipes: Sequence[str], examples: Sequence[Example], **options: Any) -> HeadTrainer:
    trainer = HeadTrainer(target, [Recipe.parse(r, exit_layer=2) for r in recipes], **{**OPTIONS, **options})
    trainer.prepare(examples)
    return trainer


def weights(trainer: HeadTrainer, name: str) -> Tensor:
    (head,) = [student.head for student in trainer.students if student.name == name]
    return torch.cat([value.flatten() for value in head.state_dict().values()])


def gradients(trainer: HeadTrainer) -> Tensor:
    return torch.cat([p.grad.flatten() for s in trainer.students for p in s.head.parameters() if p.grad is not None])


def fresh_sha256(model: Any) -> str:
    model.__dict__.pop("_fastvlm_bench_sha256", None)
    return weights_sha256(model)


@pytest.mark.parametrize("heads", [
    ["mlp", "attention", "eagle"], pytest.param(list(HEADS), marks=pytest.mark.slow),
], ids=len)  # fmt: skip
def test_every_head_learns_and_the_target_stays(target: Target, examples: list[Example], heads: Sequence[str]) -> None:
    before = fresh_sha256(target.model)
    trainer = new_trainer(target, [*heads, "mlp:name=l1,smooth_l1=1,kd=0,ce=0,cosine=0",
                                   "mlp:name=tv,acceptance=1,kd=0,ce=0,cosine=0"], examples, lr=0.1)  # fmt: skip
    losses = [trainer.update(examples[:4]) for _ in range(10)]
    assert list(losses[0]) == [f"{head}-exit2" for head in heads] + ["l1", "tv"]
    for name in losses[0]:
        assert losses[-1][name] < 0.9 * losses[0][name], name
    assert fresh_sha256(target.model) == before and all(p.grad is None for p in target.model.parameters())
    for student in trainer.students:
        assert all(p.dtype == torch.float32 and p.grad is not None for p in student.head.parameters())


@pytest.mark.slow
def test_two_recipes_together_are_each_alone(target: Target, examples: list[Example]) -> None:
    recipes = ["gated-mlp", "attention:exit_layer=1", "eagle:exit_layer=3"]

    def trained(chosen: list[str]) -> HeadTrainer:
        trainer = new_trainer(target, chosen, examples, seed=3)
        for number in range(2):
            trainer.update(examples[number : number + 3])
        return trainer

    together = trained(recipes)
    for recipe in recipes:
        alone = trained([recipe])
        (name,) = (student.name for student in alone.students)
        mine, theirs = weights(together, name), weights(alone, name)
        assert torch.allclose(mine, theirs, atol=2e-5), f"{name}: {float((mine - theirs).abs().max())}"


def test_micro_batch_does_not_change_the_gradients(target: Target, examples: list[Example]) -> None:
    found = []
    boosted = [{"mlp-exit2": [1.0 + BOOST] * e.taught} if n == 1 else {} for n, e in enumerate(examples[:5])]
    for micro in (8, 2, 1):
        trainer = new_trainer(target, ["mlp", "attention"], examples, micro=micro)
        loss = trainer._backward(examples[:5], boosted, micro)
        found.append((gradients(trainer), loss))
    assert found[0][0].abs().max() > 1e-3
    for grads, loss in found[1:]:
        assert torch.allclose(grads, found[0][0], atol=1e-5)
        assert loss == pytest.approx(found[0][1], rel=1e-5)


def test_weights_are_relative(target: Target, examples: list[Example]) -> None:
    """A text whose every position weighs five times as much counts as if it were there five times."""
    two = examples[:2]
    trainer = new_trainer(target, ["mlp"], examples)
    boosted = trainer._backward(two, [{"mlp-exit2": [5.0] * two[0].taught}, {}], 8)
    weighted = gradients(trainer)
    trainer = new_trainer(target, ["mlp"], examples)
    repeated = trainer._backward([two[0]] * 5 + [two[1]], [{}] * 6, 8)
    assert torch.allclose(weighted, gradients(trainer), atol=1e-5)
    assert boosted["mlp-exit2"] == pytest.approx(repeated["mlp-exit2"], rel=1e-5)


NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", covering(NO_MEMORY, NO_MEMORY[1:2]), ids=["device", "host", "python"])
def test_memory_that_runs_out_halves_the_micro_batch(
    target: Target, examples: list[Example], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    plain = new_trainer(target, ["mlp"], examples, micro=2)
    wanted = plain.update(examples[:6])
    trainer, seen = new_trainer(target, ["mlp"], examples, micro=8), []
    packed = trainer.observer.together

    def tight(group: Sequence[Example]) -> Any:
        seen.append(len(group))
        if len(group) > 2:
            raise error
        return packed(group)

    monkeypatch.setattr(trainer.observer, "together", tight)
    losses = trainer.update(examples[:6])
    assert trainer.micro.size == 2 and seen == [6, 4, 2, 2, 2]
    assert trainer.notes == [
        "out of memory at update 1: micro-batch halved to 4", "out of memory at update 1: micro-batch halved to 2",
    ]  # fmt: skip
    assert losses == pytest.approx(wanted) and torch.equal(weights(trainer, "mlp-exit2"), weights(plain, "mlp-exit2"))


def test_memory_that_runs_out_on_held_out_texts(
    target: Target, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = new_trainer(target, ["mlp", "attention"], examples, micro=8)
    wanted, packed = trainer.check(examples), trainer.observer.together

    def tight(group: Sequence[Example]) -> Any:
        if len(group) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return packed(group)

    monkeypatch.setattr(trainer.observer, "together", tight)
    found = trainer.check(examples)
    assert {name: [own.right for own in texts] for name, texts in found.items()} == {
        name: [own.right for own in texts] for name, texts in wanted.items()
    }
    assert trainer.micro.size == 2 and trainer.notes[-1] == "out of memory on held-out texts: micro-batch halved to 2"


def test_two_texts_that_do_not_fit_go_one_by_one(
    target: Target, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer = HeadTrainer(target, [Recipe.parse("mlp", exit_layer=2)], **OPTIONS)
    monkeypatch.setattr(trainer.observer, "packed", never)
    trainer.prepare(examples)
    assert trainer.notes == ["texts pass the target one by one: two cannot pass together"]
    trainer.update(examples[:2])
    monkeypatch.setattr(trainer.observer, "forced", never)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.prepare(examples)


def test_one_text_that_does_not_fit_is_told(
    target: Target, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = new_trainer(target, ["mlp"], examples, micro=2)

    def never(group: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.observer, "packed", never)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.update(examples[:4])
    assert trainer.micro.size == 1 and trainer.done == 0
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_loss_that_is_not_finite_names_its_samples(target: Target, examples: list[Example]) -> None:
    trainer = new_trainer(target, ["mlp", "linear"], examples, micro=2)
    trainer.update(examples[:2])
    with torch.no_grad():
        trainer.students[1].head.w.weight[0, 0] = float("nan")  # type: ignore[union-attr, index]
    before = weights(trainer, "mlp-exit2")
    with pytest.raises(FloatingPointError, match="loss of linear-exit2 is nan at update 2 on samples noise/3, noise/4"):
        trainer.update(examples[3:7])
    assert torch.equal(weights(trainer, "mlp-exit2"), before) and trainer.done == 1


def test_state_is_all_that_an_update_depends_on(target: Target, examples: list[Example], tmp_path: Any) -> None:
    """Saved after two updates and loaded into a new trainer, the next two are the same to the bit."""
    whole = new_trainer(target, ["mlp", "eagle"], examples)
    for number in range(2):
        whole.update(examples[number : number + 2])
    torch.save(whole.state(), tmp_path / "state.pt")
    for number in range(2, 4):
        whole.update(examples[number : number + 2])
    torch.manual_seed(99)
    resumed = new_trainer(target, ["mlp", "eagle"], examples)
    resumed.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.done == 2
    for number in range(2, 4):
        resumed.update(examples[number : number + 2])
    for name in ("mlp-exit2", "eagle-exit2"):
        assert torch.equal(weights(whole, name), weights(resumed, name))


@pytest.mark.slow  # a corner: few families drop out
def test_dropout_does_not_make_updates_random(target: Target, examples: list[Example]) -> None:
    """Some families' layers drop out while training; an update must not depend on the random state."""
    made = []
    for seed in (1, 2):
        trainer = new_trainer(target, ["attention"], examples)
        for layer in trainer.students[0].head.layers:  # type: ignore[union-attr]
            layer.self_attn.attention_dropout = 0.5
        torch.manual_seed(seed)
        trainer.update(examples[:2])
        trainer.check(examples[:1])
        trainer.update(examples[:2])
        made.append(weights(trainer, "attention-exit2"))
    assert torch.equal(made[0], made[1])


def test_learning_rate(target: Target) -> None:
    trainer = HeadTrainer(target, [Recipe("r", "mlp", 2)], lr=1e-2, updates=200, micro=1, refine_updates=50)
    assert [trainer.rate(n) for n in (0, 14, 29, 99)] == pytest.approx([1 / 30, 0.5, 1, 1])
    assert trainer.rate(150) == pytest.approx(0.02 + 0.98 * 0.5)
    assert trainer.rate(200) == pytest.approx(0.2) and trainer.rate(225) == pytest.approx(0.02 + 0.18 / 2)
    assert all(0 < trainer.rate(n) <= 1 for n in range(300))


def test_a_target_that_cannot_be_trained_is_told(
    target: Target, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise ValueError("its states are\nodd")

    monkeypatch.setattr(module, "Tail", refuse)
    with pytest.raises(BenchError, match="a draft cannot be trained on LlavaForConditionalGeneration: its states are;"):
        new_trainer(target, ["mlp"], examples)


def test_route_of_a_target_that_does_not_pack(
    target: Target, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    packing = new_trainer(target, ["attention", "eagle"], examples)
    single = HeadTrainer(target, [student.recipe for student in packing.students], **OPTIONS)

    def no(group: Any) -> Any:
        raise RuntimeError("one at a time")

    monkeypatch.setattr(single.observer, "packed", no)
    single.prepare(examples)
    assert not single.observer.packs and "one by one" in single.notes[0]
    for trainer in (packing, single):
        trainer._backward(examples[:3], [{}] * 3, 8)
    assert torch.allclose(gradients(packing), gradients(single), atol=1e-5)
