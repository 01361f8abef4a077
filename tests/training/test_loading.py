"""A target is loaded for training by the options of `run`, and by the same code."""

from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

from fastvlm_bench.cli.app import app
from fastvlm_bench.config import LOADING
from fastvlm_bench.drafts.heads import floating, new_head
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.training import fit, parallel
from fastvlm_bench.training.display import Display
from fastvlm_bench.training.outcome import measure_command
from fastvlm_bench.training.preflight import preflight
from fastvlm_bench.training.settings import TrainSettings


@pytest.mark.parametrize("command", ["train", "ablate"])
def test_options_are_those_of_run(command: str) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    told = {name: {p.name: (p.opts, p.help, p.default) for p in commands[name].params} for name in ("run", command)}
    for name in ("model", *LOADING):
        assert told[command][name] == told["run"][name], name


def test_options_reach_the_target(pictures: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"device": "cpu", "dtype": "bfloat16", "device_map": None, "attn": "eager", "quantize": None,
             "trust_remote_code": True, "offline": True}  # fmt: skip
    seen: list[Any] = []

    def load(name: str, **options: Any) -> Target:
        seen.append((name, options))
        raise UsageError("enough")

    monkeypatch.setattr(fit, "load_target", load)
    settings = TrainSettings(
        out=str(tmp_path / "d"), model="org/m@v1", images=str(pictures[0]), prompts=str(pictures[1]), held_out=2,
        **given,
    )  # fmt: skip
    with pytest.raises(UsageError, match="enough"):
        fit.train(settings)
    assert seen == [("org/m@v1", given)]
    command = measure_command(settings, "org/m@v1", tmp_path, {"gamma": 4, "stop_below": 0.5})
    assert "--model org/m@v1 --dtype bfloat16 --attn eager --trust-remote-code --draft" in command


def test_device_and_device_map_exclude_each_other(tmp_path: Path) -> None:
    settings = TrainSettings(out=str(tmp_path / "d"), suites=("describe",), device="cpu", device_map="auto")
    with pytest.raises(UsageError, match="--device cpu and --device-map exclude each other: leave one out"):
        fit.train(settings)


def test_devices_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--device-map auto cannot be kept by several processes, each of which has a"):
        parallel.start("auto", "auto")
    with pytest.raises(UsageError, match="--device cuda:1 cannot be kept by several processes.*; leave it out, or"):
        parallel.start("cuda:1")


def test_target_that_is_spread_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(out=str(tmp_path / "d"), suites=("describe",), exit_layers=("1",), device_map="auto")
    halves = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, device="meta")])
    monkeypatch.setattr(Target, "layers", halves)
    spread = Target("tiny", halves, None, torch.device("cpu"), None)
    with pytest.raises(UsageError, match="put 'tiny' on cpu, disk or main memory: a draft is trained where the whole"):
        preflight(settings, spread, Display(quiet=True).say)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_heads_on_a_quantized_target(checkpoint: Path, bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    target = load_target(str(checkpoint), device="cpu", quantize=bits)
    layer = target.layers[1]
    packed = dict(layer.named_modules())["self_attn.q_proj"].weight
    assert not packed.is_floating_point()
    head = new_head("attention", target.model, 1)
    plain = load_target(str(checkpoint), device="cpu").layers[1]
    found, wanted = dict(head.layers[0].named_parameters()), dict(plain.named_parameters())  # type: ignore[union-attr, index]
    assert found.keys() == wanted.keys()
    for name, parameter in found.items():
        assert parameter.dtype == floating(layer).dtype and parameter.shape == wanted[name].shape
        assert (parameter.float() - wanted[name]).norm() < 0.15 * wanted[name].norm(), (
            f"{name} is far from its original"
        )
    assert not dict(layer.named_modules())["self_attn.q_proj"].weight.is_floating_point(), "the target stays packed"
    head.float().requires_grad_(True)
