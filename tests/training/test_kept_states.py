"""What the target gave for a text stands for another pass of it, and no text passes twice."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families.builders import FAMILIES, SEVERAL_STREAMS, build

from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.models.load import Target
from fastvlm_bench.training import trainer as module
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.kept_states import KeptStates
from fastvlm_bench.training.observe import Observer
from fastvlm_bench.training.recipe import Recipe
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.trainer import HeadTrainer


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max())))


@pytest.fixture
def seen(target: Target) -> Iterator[list[int]]:
    """A list to which every pass of the target's first layer adds the number of its texts, in the layer's own work."""
    found: list[int] = []
    hook = target.layers[0].self_attn.register_forward_pre_hook(
        lambda _, args, kwargs: found.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    yield found
    hook.remove()


def trainer_of(target: Target, examples: list[Example], **given: Any) -> HeadTrainer:
    trainer = HeadTrainer(target, [Recipe.parse("attention", exit_layer=2), Recipe.parse("eagle", exit_layer=1)],
                          lr=1e-2, updates=20, micro=4)  # fmt: skip
    for name, value in given.items():
        setattr(trainer, name, value)
    trainer.prepare(examples)
    return trainer


def test_views_are_those_of_a_pass(target: Target, examples: list[Example]) -> None:
    observer = Observer(target, [1, 3], 2)
    kept = KeptStates(observer)
    torch.manual_seed(0)
    heads = {1: new_head("eagle", target.model, 1), 3: new_head("attention", target.model, 3)}
    for group in (examples[:3], examples[1:2], examples[2:6], [examples[5], examples[0]]):
        view, whole = kept.view(group), observer.packed(group)
        assert torch.equal(view.told, whole.told)
        for fuse in (1, 2):
            assert close(view.aim(fuse), whole.aim(fuse))
        with torch.no_grad():
            for exit_layer, head in heads.items():
                for mine, own in zip(
                    view.imitate(head, exit_layer, 2), whole.imitate(head, exit_layer, 2), strict=True
                ):
                    assert close(mine, own)
        for mine, own in zip(view.before(1), whole.before(1), strict=True):
            assert close(mine.float(), own.float())


def test_each_text_passes_once_and_alone(target: Target, examples: list[Example], seen: list[int]) -> None:
    """So an update does not depend on the texts beside it, nor on the updates before it."""
    trainer = trainer_of(target, examples)
    assert trainer.keeps
    seen.clear()
    trainer.update(examples[:4])
    first = len(seen)
    trainer.update(examples[2:6])
    trainer.check(examples)
    rest = len(seen)
    trainer.update([examples[5], examples[0]])
    trainer.check(examples)
    assert set(seen) == {1} and first <= 4 and len(seen) == rest <= len(examples)
    gradient = [p.grad.clone() for s in trainer.students for p in s.head.parameters()]
    fresh = trainer_of(target, examples)
    fresh.load(trainer.state())
    for one in (trainer, fresh):
        one._backward([examples[5], examples[0]], [{}, {}], 4)
    again, other = ([p.grad for s in one.students for p in s.head.parameters()] for one in (trainer, fresh))
    assert all(torch.equal(a, b) for a, b in zip(again, other, strict=True)) and len(gradient) == len(again)


@pytest.mark.slow
def test_no_more_is_kept_than_memory_allows(
    target: Target, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = KeptStates(trainer_of(target, examples).observer)
    need = held.bytes_for(examples)
    for room, keeps in ((need / module.SHARE * 1.01, True), (need / module.SHARE * 0.99, False)):
        monkeypatch.setattr(module, "free_bytes", lambda _, room=room: int(room))
        assert trainer_of(target, examples).keeps is keeps
    assert trainer_of(target, examples, keeps=True).keeps, "a training that goes on keeps what it kept before"
    held.view(examples)
    own = sum(t.nbytes for row in held._kept.values() for t in (*row.states.values(), *row.tops.values()))
    assert need == pytest.approx(own, rel=0.05)


def test_arguments_that_layers_hand_on_are_noticed(
    target: Target, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a layer's arguments depend on the work of the layers before it, nothing can be kept."""
    layer, handed = target.layers[0], {}

    def noting(module: Any, args: Any, result: Any) -> None:
        handed["mean"] = (result[0] if isinstance(result, tuple) else result).mean()

    def told(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "of_the_first": handed["mean"]}

    hooks = [layer.register_forward_hook(noting), target.layers[2].register_forward_pre_hook(told, with_kwargs=True)]
    monkeypatch.setattr(type(target.layers[2]), "forward", _without(type(target.layers[2]).forward))
    try:
        assert not KeptStates(Observer(target, [2], 1)).agree(examples[:2])
        assert KeptStates(Observer(target, [1], 1)).agree(examples[:2])
    finally:
        for hook in hooks:
            hook.remove()


def _without(forward: Any) -> Any:
    def plain(self: Any, *args: Any, of_the_first: Any = None, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    return plain


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in SEVERAL_STREAMS])
def test_families_that_pack_keep_what_they_gave(name: str, tmp_path: Path) -> None:
    model, inputs, expected = build(name)

    class Given(Target):
        def encode(self, image: Any, prompt: str) -> dict[str, Any]:
            return dict(inputs)

    tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2)
    target = Given(name, model, SimpleNamespace(tokenizer=tokenizer), torch.device("cpu"), None)
    sample = TrainingSample(f"{name}/0", "0", "", partial(lambda: None))  # type: ignore[arg-type]
    texts = [Example(sample, tuple(expected), False), Example(sample, tuple(expected[:15]), False)]
    observer = Observer(target, [2], 1)
    observer.choose_route(texts)
    if not observer.packs or any(map(observer.holds_images, texts)):
        pytest.skip("it reads one text at a time")
    kept = KeptStates(observer)
    if kept.agree(texts):
        view, whole = kept.view(texts), observer.packed(texts)
        assert close(view.last_states(), whole.last_states())


@pytest.mark.slow
def test_a_draft_of_few_tokens_learns_on_these_alone(target: Target, examples: list[Example]) -> None:
    """With all tokens the losses are those of the whole vocabulary; what may not be drafted teaches nothing."""
    size = target.model.config.get_text_config().vocab_size
    whole, every = trainer_of(target, examples), trainer_of(target, examples, output_ids=torch.arange(size))
    for trainer in (whole, every):
        trainer._backward(examples[:4], [{}] * 4, 4)
    for a, b in zip(*([p.grad for s in t.students for p in s.head.parameters()] for t in (whole, every)), strict=True):
        assert close(a, b)
    view = whole.observer.together(examples[:4])
    logits, aims = whole._target_side(view)
    choices = logits.argmax(-1)
    left = torch.tensor(sorted(set(range(size)) - {int(choices[0])}))
    few = trainer_of(target, examples, output_ids=left)
    for student in few.students:
        loss = few._losses(student, view, logits, aims[student.recipe.fuse])
        assert torch.equal(loss == 0, choices == choices[0]) and 0 < int((loss == 0).sum()) < len(loss)
