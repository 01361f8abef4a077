"""What the loop rests on: k tokens at once equal one by one, and rolling back equals never having drafted."""

from typing import Any

import pytest
import torch
from covering import covering
from targets import LAYERS, generate
from torch import Tensor

from fastvlm_bench.checks.self_check import self_check
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.heads import new_head
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.engine.accept import accept_greedy
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.layers import decoder_layers


class Script:
    """A method that runs `play(session)` after the prefill."""

    def __init__(self, play: Any) -> None:
        self.play = play

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        session = Session(model, input_ids, clock=Clock(), **prepared)
        session.prefill()
        self.play(session)
        return session.sequences


def keys(session: Session) -> list[Tensor]:
    return [layer.keys.clone() for layer in session.cache.layers]


def test_k_at_once_equals_one_by_one(llava: Any, inputs: dict[str, Any]) -> None:
    tokens, found = [11, 222, 33, 150], {}

    def one_by_one(session: Session) -> None:
        rows = []
        for i in range(len(tokens) + 1):
            outputs = session.forward(1, [tokens[:i]], session.kwargs)
            session.advance_kwargs(outputs, session.kwargs, 1)
            rows.append(outputs.logits[0])
        found["one"] = (torch.cat(rows), keys(session))

    def at_once(session: Session) -> None:
        kwargs = dict(session.kwargs)
        if kwargs.get("attention_mask") is not None or kwargs.get("position_ids") is not None:
            session.advance_kwargs({}, kwargs, len(tokens))
        found["all"] = (session.forward(len(tokens) + 1, [tokens], kwargs).logits[0], keys(session))

    for play in (one_by_one, at_once):
        generate(llava, inputs, Script(play), count=8)
    torch.testing.assert_close(found["one"][0], found["all"][0], rtol=1e-4, atol=1e-4)
    for a, b in zip(found["one"][1], found["all"][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("exit_layer", covering(range(1, LAYERS), [1, LAYERS - 1]))
def test_rollback_equals_never_drafted(llava: Any, inputs: dict[str, Any], exit_layer: int) -> None:
    """After a round whose drafts are all rejected, KV and next logits are those after one standard token."""
    found = {}

    def standard(session: Session) -> None:
        outputs = session.forward(1, (), session.kwargs)
        session.advance_kwargs(outputs, session.kwargs, 1)
        session.emit(session.choose(outputs.logits))
        found["standard"] = keys(session), session.forward(1, (), session.kwargs).logits

    def drafted(session: Session) -> None:
        class WrongHead(torch.nn.Module):
            attends = False
            recurs = False

            def forward(self, states: Tensor, *_: Any, **__: Any) -> Tensor:
                return -states

        method = FastVLM(Draft(exit_layer, WrongHead()), gamma=4)  # type: ignore[arg-type]
        gate = LayerGate(decoder_layers(llava), exit_layer, method.draft_for(llava).head)
        session._gate = gate
        session.record_past()
        with gate.installed():
            (played,) = method.round(session)
            assert played.drafted >= 1 and played.accepted == 0 and played.emitted == 1
            gate.mode = Mode.FULL
            found["rolled back"] = keys(session), session.forward(1, (), session.kwargs).logits

    for play in (standard, drafted):
        generate(llava, inputs, Script(play), count=12)
    for a, b in zip(found["standard"][0], found["rolled back"][0], strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["standard"][1], found["rolled back"][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("exit_layer", covering(range(1, LAYERS), [1, LAYERS - 1]))
def test_self_check_passes_and_is_tight(llava: Any, inputs: dict[str, Any], exit_layer: int) -> None:
    assert self_check(llava, inputs, exit_layer).difference < 1e-4


def test_self_check_finds_a_gate_that_skips_a_layer(
    llava: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LayerGate._gated

    def broken(self: LayerGate, index: int, forward: Any) -> Any:
        if index == LAYERS - 1:
            return lambda states, *a, **k: states if self.mode is Mode.VERIFY else forward(states, *a, **k)
        return original(self, index, forward)

    monkeypatch.setattr(LayerGate, "_gated", broken)
    with pytest.raises(UsageError, match="differs from a full pass"):
        self_check(llava, inputs, 2)


def test_attention_head_is_filled_at_prefill_and_rolled_back(llava: Any, inputs: dict[str, Any]) -> None:
    """Before each round, the head's KV has one entry for every position that the early layers have kept."""
    draft = Draft(2, new_head("attention", llava, 2))
    method, lengths = FastVLM(draft, gamma=3), []
    original = method.round

    def watched(session: Session) -> Any:
        lengths.append((session.gate.head_cache.get_seq_length(), session.length - 1))
        return original(session)

    method.round = watched  # type: ignore[method-assign]
    generate(llava, inputs, method, count=12)
    assert len(lengths) > 3 and all(own == seen for own, seen in lengths)


@pytest.mark.parametrize("exit_layer", [0, LAYERS, -1, 99])
def test_exit_layer_out_of_range(llava: Any, exit_layer: int) -> None:
    with pytest.raises(ValueError, match="not within 1"):
        LayerGate(decoder_layers(llava), exit_layer)


def test_gate_is_removed_after_an_error(llava: Any) -> None:
    gate = LayerGate(decoder_layers(llava), 2)
    with pytest.raises(RuntimeError), gate.installed():
        raise RuntimeError
    assert not any("forward" in layer.__dict__ for layer in decoder_layers(llava))


@pytest.mark.parametrize(
    ("drafted", "predicted", "accepted"),
    [([], [5], 0), ([5], [5, 6], 1), ([5], [6, 6], 0), ([1, 2, 3], [1, 9, 3, 4], 1), ([1, 2, 3], [1, 2, 3], 3)],
)
def test_accept_greedy(drafted: list[int], predicted: list[int], accepted: int) -> None:
    assert accept_greedy(drafted, predicted) == accepted
