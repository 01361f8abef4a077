"""Two processes, as `torchrun` starts them, give the weights of one process with the same batch."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from several import launched

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.cli.app import app
from fastvlm_bench.training import costs, fit, updates


def run(
    arguments: list[str], world: int, said: Path, prepare: Callable[[int], None] = lambda rank: None
) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each of `world` processes that train together, after `prepare(rank)` in each."""

    def work(rank: int) -> int:
        costs.measure_costs = lambda *_: PassCosts(1.0, 0.05, [1.0] * 11)  # type: ignore[assignment]
        prepare(rank)
        return int(app(["train", *arguments]))

    return launched(work, world, said)


@pytest.mark.slow
def test_phase_1_of_two_processes_is_that_of_one(checkpoint: Path, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    """A batch of three is split unevenly, one of one leaves a process without any; weights, losses, quality agree."""
    given = [
        "--model", str(checkpoint), "--images", str(pictures[0]), "--prompts", str(pictures[1]), "--exit-layer", "1",
        "--head", "linear", "--samples", "5", "--held-out", "2", "--max-new-tokens", "8", "--updates", "1", "--refine",
        "0", "--micro", "2", "--device", "cpu", "--threads", "1", "--finetune-backbone", "full", "--backbone-updates",
        "6", "--backbone-lr", "0.005", "--validate-every", "3",
    ]  # fmt: skip
    for batch in ("3", "1"):
        made = []
        for world, name in ((1, "one"), (2, "two")):
            out = tmp_path / batch / name
            said = run([*given, "--batch", batch, "--out", str(out)], world, tmp_path / "said")
            assert [code for code, _, _ in said] == [0] * world, said
            lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
            losses = [line for line in lines if "backbone" in line]
            made.append((load_file(out / "backbone" / "model.safetensors"), losses, (out / "quality.json").read_text()))
            manifest = json.loads((out / "manifest.json").read_text())
            assert manifest["data"]["finetuned_backbone"]["how"] == "full"
        (one, losses, quality), (two, other_losses, other_quality) = made
        assert one.keys() == two.keys() and all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)
        assert [line["backbone"] for line in losses] == [3, 6] == [line["backbone"] for line in other_losses]
        for ours, theirs in zip(losses, other_losses, strict=True):
            assert theirs == pytest.approx(ours, abs=1e-4)
        assert quality == other_quality
    before = load_file(checkpoint / "model.safetensors")
    assert any(not torch.allclose(before[key].float(), one[key].float(), atol=1e-3) for key in one), "nothing learned"


@pytest.mark.slow
def test_two_processes_are_one(checkpoint: Path, pictures: tuple[Path, Path], tmp_path: Path) -> None:
    given = [
        "--model", str(checkpoint), "--images", str(pictures[0]), "--prompts", str(pictures[1]), "--exit-layer", "1",
        "--head", "mlp", "--head", "attention", "--samples", "5", "--held-out", "2", "--max-new-tokens", "8",
        "--updates", "3", "--refine", "2", "--batch", "3", "--micro", "2", "--device", "cpu", "--threads", "1",
    ]  # fmt: skip
    ((code, said, errors),) = run([*given, "--out", str(tmp_path / "one")], 1, tmp_path / "said")
    assert code == 0, errors
    both = run([*given, "--out", str(tmp_path / "two")], 2, tmp_path / "said")
    assert [code for code, _, _ in both] == [0, 0], both
    assert "saved" in both[0][1] and both[1][1] == "", "one of them speaks"
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True)["trainer"] for name in ("one", "two")]
    assert [state["done"] for state in states] == [5, 5]
    for name, head in states[0]["heads"].items():
        for key, value in head.items():
            assert torch.allclose(value, states[1]["heads"][name][key], atol=1e-5), f"{name} {key}"
        load_file(tmp_path / "two" / name / "head.safetensors")
    refused = run([*given, "--out", str(tmp_path / "two"), "--seed", "5"], 2, tmp_path / "said")
    assert [code for code, _, _ in refused] == [2, 2], "all refuse what the leader refuses"


def prefers_its_own(rank: int) -> None:
    """Each process finds another exit the best, and only the second one finds that nothing gets better any more."""
    real, seen = fit.validate, [0.0]

    def choosing(*given: Any) -> Any:
        found = real(*given)
        return {name: replace(own, speedup=9.0 if name == f"exit{rank + 1}" else 1.0) for name, own in found.items()}

    def lasting(*given: Any) -> Any:
        seen[0] += 1.0 if rank == 0 else -1.0
        return {name: replace(own, speedup=seen[0]) for name, own in real(*given).items()}

    fit.validate, updates.validate = choosing, lasting  # type: ignore[assignment]


@pytest.mark.slow
def test_the_leader_decides_the_exit_and_when_to_stop(
    checkpoint: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    given = [
        "--model", str(checkpoint), "--images", str(pictures[0]), "--prompts", str(pictures[1]), "--exit-layer", "auto",
        "--head", "linear", "--samples", "5", "--held-out", "2", "--max-new-tokens", "8", "--updates", "6", "--refine",
        "0", "--batch", "2", "--micro", "2", "--device", "cpu", "--threads", "1", "--validate-every", "1", "--patience",
        "2",
    ]  # fmt: skip
    said = run([*given, "--out", str(tmp_path / "out")], 2, tmp_path / "said", prefers_its_own)
    assert [code for code, _, _ in said] == [0, 0], said
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["chosen"] for line in lines if "chosen" in line] == [1]
    assert max(line.get("done", 0) for line in lines) == 6, "the leader saw every validation get better"
