"""Rejections weigh more and are drawn more often; phase 1 trains the backbone and says what that did to it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.fingerprint import weights_sha256
from fastvlm_bench.models.load import load_target
from fastvlm_bench.training import backbone, costs, fit
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.folder import TrainingFolder
from fastvlm_bench.training.prediction import Checked
from fastvlm_bench.training.refine import BOOST, ReplayBuffer, Rows, rejection_weights
from fastvlm_bench.training.refine_run import corrected
from fastvlm_bench.training.samples import TrainingSample
from fastvlm_bench.training.settings import TrainSettings


def text(number: int) -> Example:
    sample = TrainingSample(f"s/{number}", str(number), "", lambda: None)  # type: ignore[arg-type, return-value]
    return Example(sample, (1, 2, 3), False)


def test_rejected_positions_weigh_more() -> None:
    # γ 10, cut by the limit: (r w ...) is rejected at 1, then (r r r |): the last is never drafted.
    texts = [Checked([True, False, True, True, True], [0.9] * 5, False), Checked([False], [0.1], False)]
    good = [Checked([True] * 5, [0.9] * 5, False), Checked([True], [0.9], True)]
    rows = rejection_weights({"a": texts, "b": good, "c": texts}, ["a", "b"])
    assert rows == [
        {"a": [1, 1 + BOOST, 1, 1, 1], "b": [1, 1, 1, 1, 1]},
        {"a": [1], "b": [1]},  # one token that fits is not drafted, so not rejected
    ]
    assert rejection_weights({"a": texts}, []) == [{}, {}]


def test_a_traces_rejections_weigh_the_same() -> None:
    rounds = [[4, 2, 1, 2, 0.0, 0.0], [3, 3, 3, 4, 0.0, 0.0], [2, 1, 0, 1, 0.0, 0.0]]
    assert corrected(rounds, 7) == [1, 1 + BOOST, 1, 1, 1, 1, 1 + BOOST]


def test_replay_buffer() -> None:
    buffer = ReplayBuffer(capacity=5)
    for first in (0, 3):
        buffer.add([text(n) for n in range(first, first + 3)], [{"a": [1.0]} for _ in range(3)])
    assert [e.sample.image_id for e, _ in buffer.held] == ["1", "2", "3", "4", "5"], "the oldest left"
    drawn = buffer.draw(3, seed=1)
    assert drawn == buffer.draw(3, seed=1) and len({e.sample.sample_id for e, _ in drawn}) == 3
    assert any(buffer.draw(3, seed=s) != drawn for s in range(2, 9)) and len(buffer.draw(99, seed=0)) == 5
    assert ReplayBuffer().draw(3, seed=0) == []


def test_draws_are_weighted() -> None:
    """One draw of two texts, weights 9 and 3: the first three times out of four."""
    buffer = ReplayBuffer()
    rows: list[Rows] = [{"a": [1.0 + BOOST, 3.0, 1.0]}, {"a": [1.0, 1.0, 1.0]}]
    buffer.add([text(0), text(1)], rows)
    first = sum(buffer.draw(1, seed)[0][0].sample.image_id == "0" for seed in range(2000))
    assert 0.71 < first / 2000 < 0.79


@pytest.fixture
def given(checkpoint: Path, pictures: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(costs, "measure_costs", lambda *_: PassCosts(1.0, 0.05, [1.0] * 11))
    monkeypatch.setattr(backbone, "SAVE_EVERY_S", -1.0)
    return dict(
        model=str(checkpoint), images=str(pictures[0]), prompts=str(pictures[1]), exit_layers=("1",), heads=("mlp",),
        samples=5, held_out=3, max_new_tokens=6, updates=2, refine_updates=0, batch=4, micro=2, validate_every=4,
        backbone_updates=12, backbone_lr=5e-3, finetune_backbone="full", device="cpu",
    )  # fmt: skip


def made_weights(out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "backbone" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "lora"])
def test_phase_1(
    given: dict[str, Any], tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "lora":
        pytest.importorskip("peft")
    given = {**given, "finetune_backbone": how, "backbone_lr": 5e-3 if how == "full" else 2e-2}
    out = tmp_path / "whole"
    assert fit.train(TrainSettings(**given, out=str(out))) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "backbone" in line]
    assert [line["backbone"] for line in losses] == [4, 8, 12]
    assert losses[-1]["exit_loss"] < 0.97 * losses[0]["exit_loss"]
    assert losses[-1]["task_loss"] < losses[0]["task_loss"] + 0.05
    before, after = load_target(given["model"], device="cpu"), load_target(str(out / "backbone"), device="cpu")
    assert weights_sha256(before.model) != weights_sha256(after.model)
    old, new = before.model.state_dict(), after.model.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved and all(".layers." in name and "language_model" in name for name in moved), "only decoder layers learn"
    (row,) = json.loads((out / "quality.json").read_text())
    assert row["n"] == 3 and 0 <= row["unchanged"] <= 3 and row["metric"] == "no references"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["target_weights_sha256"] == weights_sha256(after.model), "the draft is the new model's"
    assert manifest["data"]["finetuned_backbone"]["how"] == how
    # Stopped in the middle of phase 1, it ends with the same backbone.
    halves, save = tmp_path / "halves", backbone._Backbone._save

    def stops(self: Any, done: int) -> None:
        save(self, done)
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(backbone._Backbone, "_save", stops)
    assert fit.train(TrainSettings(**given, out=str(halves))) == 130
    monkeypatch.setattr(backbone._Backbone, "_save", save)
    # Stopped again between what is kept of the quality and what is said of it, it is said in the end.
    kept = fit.measure_quality

    def keeps(*arguments: Any) -> None:
        kept(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "measure_quality", keeps)
    capsys.readouterr()
    assert fit.train(TrainSettings(**given, out=str(halves))) == 130
    assert (halves / "quality.json").is_file() and "unchanged answers" not in capsys.readouterr().out
    assert fit.train(TrainSettings(**given, out=str(halves))) == 0
    assert "unchanged answers" in capsys.readouterr().out
    one, other = made_weights(out), made_weights(halves)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert (halves / "head.safetensors").read_bytes() == (out / "head.safetensors").read_bytes()


@pytest.mark.slow  # test_trainer.py halves micro-batches in the default run
def test_phase_1_without_memory(
    given: dict[str, Any], examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    """Half the micro-batch gives the gradients, and so the model, that the whole would have given."""
    made = []
    for name in ("enough", "tight"):
        target, folder = load_target(given["model"], device="cpu"), TrainingFolder(tmp_path / name)
        folder.path.mkdir()
        settings = TrainSettings(**{**given, "backbone_updates": 2, "micro": 4}, out=str(folder.path))
        learning = backbone._Backbone(settings, target, examples[:6], folder, Display())
        padded = learning.observer.padded

        def tight(group: Any, padded: Any = padded) -> Any:
            if len(group) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return padded(group)

        if name == "tight":
            monkeypatch.setattr(learning.observer, "padded", tight)
        learning.run()
        made.append([p.detach().clone() for p in learning.parameters])
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*made, strict=True))
    said = capsys.readouterr().out
    assert said.count("micro-batch halved") == 2 and "out of memory at update 1: micro-batch halved to 1" in said


def test_phase_1_refuses_what_it_cannot(
    given: dict[str, Any], examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = load_target(given["model"], device="cpu"), TrainingFolder(tmp_path / "d")
    monkeypatch.setitem(sys.modules, "peft", None)
    lora = TrainSettings(**{**given, "finetune_backbone": "lora"}, out=str(tmp_path / "d"))
    with pytest.raises(UsageError, match=r"lora needs peft: pip install 'fastvlm-bench\[lora\]'"):
        backbone.finetune(lora, model, examples, folder, Display(quiet=True))
    with pytest.raises(UsageError, match=r"lora needs peft: pip install 'fastvlm-bench\[lora\]'"):
        lora.validate()  # before the target has made its answers
    for given_as, dtype in (("bf16", "bfloat16"), ("float16", "float16")):
        with pytest.raises(UsageError, match=f"trains float32 weights; leave --dtype {dtype} out"):
            TrainSettings(**{**given, "dtype": given_as}, out=str(tmp_path / "d")).validate()
    with pytest.raises(UsageError, match="needs to know the exits that it trains: give --exit-layer, as 1,2"):
        TrainSettings(**{**given, "exit_layers": ("auto",)}, out=str(tmp_path / "d"))
    model.model.bfloat16()
    full = TrainSettings(**given, out=str(tmp_path / "d"))
    with pytest.raises(UsageError, match="trains float32 weights, not bfloat16; add --dtype float32"):
        backbone.finetune(full, model, examples, folder, Display(quiet=True))
