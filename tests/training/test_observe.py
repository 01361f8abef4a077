"""What heads learn from: it is the same by both routes, at the positions that predict, with the target's own logits."""

import random
from collections.abc import Callable
from itertools import count, product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from covering import covering
from families.builders import build
from torch import nn

from fastvlm_bench.drafts.heads import HEADS, new_head
from fastvlm_bench.models.layers import output_embeddings
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.observe import Observer
from fastvlm_bench.training.order import Order
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.tail import Tail


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max())))


def test_places_that_teach_predict_the_next_token(target: Target, examples: list[Example]) -> None:
    observer = Observer(target, [2], 1)
    batch, told = observer.padded(examples[:4])
    for row, marks, example in zip(batch["input_ids"], told, examples, strict=False):
        places = marks.nonzero().flatten().tolist()
        assert [row[place + 1].item() for place in places] == list(example.answer[1:])
        assert places[0] == example.inputs(target)["input_ids"].shape[1], "the first token comes from prefill"
    tail = Tail(target, observer, examples[0])
    for view in (observer.packed(examples[:4]), observer.forced(examples[0])):
        own = tail(view.last_states()).argmax(-1).tolist()
        texts = examples[:4] if view.told.shape[0] > 1 else examples[:1]
        assert own == [token for example in texts for token in example.answer[1:]]


def test_both_routes_see_the_same(target: Target, examples: list[Example]) -> None:
    observer = Observer(target, [1, 3, 4], 3)
    packed = observer.packed(examples[:3])
    forced = [observer.forced(example) for example in examples[:3]]
    for fuse in (1, 2, 3):
        assert close(packed.aim(fuse), torch.cat([view.aim(fuse) for view in forced]))
    assert observer.choose_route(examples) < 1e-4 and observer.packs


FEW = [("mlp", 1), ("attention", 3), ("eagle", 3), ("block", 1)]


@pytest.mark.parametrize(("kind", "exit_layer"), covering(product(HEADS, (1, 3)), FEW))
def test_both_routes_imitate_the_same(target: Target, examples: list[Example], kind: str, exit_layer: int) -> None:
    torch.manual_seed(0)
    head = new_head(kind, target.model, exit_layer)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    observer, unroll = Observer(target, [exit_layer], 1), 3
    with torch.no_grad():
        packed = observer.packed(examples[:3]).imitate(head, exit_layer, unroll)
        forced = [observer.forced(example).imitate(head, exit_layer, unroll) for example in examples[:3]]
    assert len(packed) == (unroll if kind == "eagle" else 1)
    for number, states in enumerate(packed):
        assert close(states, torch.cat([one[number] for one in forced])), f"pass {number}"
    if kind == "eagle":
        assert not close(packed[0], packed[1]), "its own output differs from the target's states"


def test_unrolling_keeps_the_prompt_as_it_is(target: Target, examples: list[Example]) -> None:
    """The first drafted token's predecessor is the target's own state in every pass, as it is in the loop."""
    torch.manual_seed(0)
    head = new_head("eagle", target.model, 2)
    with torch.no_grad():
        head.join.weight.normal_(0, 0.1)
        first, second = Observer(target, [2], 1).packed(examples[:1]).imitate(head, 2, 2)
    assert close(second[:1], first[:1]) and not close(second[1:2], first[1:2])


def test_aim_is_a_mean(target: Target, examples: list[Example]) -> None:
    view = Observer(target, [2], 3).packed(examples[:2])
    assert close(view.aim(3), (view.top(0) + view.top(1) + view.top(2)) / 3)
    assert not close(view.top(0), view.top(1)) and torch.equal(view.aim(1), view.last_states())


class Given:
    """A target without a processor: its one prompt as tensors."""

    def __init__(self, name: str) -> None:
        self.model, self.given, self.answer = build(name)
        tokenizer = SimpleNamespace(pad_token_id=0, eos_token_id=2)
        self.target = Target(
            name, self.model, SimpleNamespace(tokenizer=tokenizer), torch.device("cpu"), None
        )  # fmt: skip
        self.target.encode = lambda image, prompt: dict(self.given)  # type: ignore[method-assign, assignment]
        sample = TrainingSample("s/0", "0", "", lambda: None)  # type: ignore[arg-type, return-value]
        self.example = Example(sample, tuple(self.answer), False)


def scaled(model: Any, output: nn.Module) -> None:
    """A scale after the LM head that no configuration names."""
    output.register_forward_hook(lambda _, __, logits: logits / 7.0 + 0.5)


def capped(model: Any, output: nn.Module) -> None:
    model.config.get_text_config(decoder=True).final_logit_softcapping = 3.0


def told(model: Any, output: nn.Module) -> None:
    """Aya Vision's text model has a scale, which transformers does not apply there."""
    model.config.get_text_config(decoder=True).logit_scale = 0.25


def before(model: Any, output: nn.Module) -> None:
    """What T5 does: the scale comes before the LM head."""
    output.register_forward_pre_hook(lambda _, given: (given[0] * 0.3,))


TAILS = [
    ("paligemma2", capped), ("aya_vision", told), ("llava", scaled), ("llava", before), ("instructblip_t5", before)
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), covering(TAILS, TAILS[2:4]))
def test_tail_is_the_targets_own(name: str, change: Callable[[Any, nn.Module], None]) -> None:
    """Compared with the logits that `generate` itself chose from, whatever a family does to them."""
    own = Given(name)
    change(own.model, output_embeddings(own.model))
    observer = Observer(own.target, [2], 1)
    tail = Tail(own.target, observer, own.example)
    made = own.model.generate(
        **own.given, max_new_tokens=len(own.answer), do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    with torch.no_grad():
        states = observer.forced(own.example).last_states()
        expected = tail(states)
        assert close(tail.after(tail.before(states)), expected), "split at the LM head"
    logits = torch.cat(made.logits[1:]).float()
    if made.sequences[0].tolist()[-len(own.answer) :] == own.answer:  # else it writes another text than before
        assert close(expected, logits)
    else:
        assert close(expected[0], logits[0])
    states = states.detach().requires_grad_(True)
    tail(states).square().sum().backward()
    assert states.grad is not None and bool(states.grad.abs().sum(dim=1).gt(0).all()), "heads learn through it"


def test_tail_refuses_a_target_that_does_not_say_the_same_again(target: Target, examples: list[Example]) -> None:
    calls = count(1)
    hook = output_embeddings(target.model).register_forward_hook(lambda _, __, logits: logits * next(calls))
    try:
        with pytest.raises(ValueError, match="do not give its own logits again"):
            Tail(target, Observer(target, [2], 1), examples[0])
    finally:
        hook.remove()


def test_a_written_placeholder_is_read_by_the_forced_route(target: Target, examples: list[Example]) -> None:
    """In one packed text the placeholder would need another image, which a model with random weights does not have."""
    image = target.model.config.image_token_index
    odd = Example(examples[0].sample, (*examples[0].answer[:3], image, 7), False)
    observer = Observer(target, [2], 1)
    assert observer.choose_route([odd, *examples]) < 1e-4 and observer.packs
    views = list(observer.views([examples[1], odd, examples[2]], 2))
    assert [len(group) for _, group in views] == [1, 1, 1] and views[1][1] == [odd]
    assert [view.last_states().shape[0] for view, _ in views] == [e.taught for e in (examples[1], odd, examples[2])]


def test_order_leaves_out_by_chance_and_depends_on_the_number_alone() -> None:
    sample = TrainingSample("s/0", "0", "", lambda: None)  # type: ignore[arg-type, return-value]
    texts = [Example(sample, tuple(range(2 + 8 * n)), False) for n in range(10)]
    order = Order(texts, 4, seed=0)
    epochs = [[e for number in (2 * epoch, 2 * epoch + 1) for e in order.batch(number)] for epoch in range(30)]
    for epoch in epochs:
        assert len(epoch) == 8 == len({len(e.answer) for e in epoch})
    seen = [sum(text in epoch for epoch in epochs) for text in texts]
    assert min(seen) > 0.5 * 30, "each text has its turns, the longest ones too"
    numbers = list(range(12))
    random.Random(0).shuffle(numbers)
    fresh = Order(texts, 4, seed=0)
    assert [Order(texts, 4, seed=0).batch(n) for n in numbers] == [fresh.batch(n) for n in numbers]
    assert Order(texts, 99, seed=0).size == 10
