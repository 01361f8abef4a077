"""`results/gpu.sh`: its arguments, the commands that it would run, and the random target that it writes."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastvlm_bench.models.load import load_target

RESULTS = Path(__file__).parents[1] / "results"


def said(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["sh", str(RESULTS / "gpu.sh"), *arguments], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--device", "tpu"], "--device is 'tpu'; it must be cuda, cuda:N or cpu"),
        (["--shape", "13b"], "--shape is '13b'; it must be 7b or small"),
        (["--limit", "few"], "--limit and --tokens are whole numbers, not 'few'"),
        (["--out"], "--out needs a value"),
        (["--fast"], "'--fast' is no option"),
    ],
)
def test_refused(arguments: list[str], says: str) -> None:
    done = said(*arguments)
    assert done.returncode == 2 and says in done.stderr and not done.stdout
    assert len(done.stderr.splitlines()) == 1


def test_the_commands_are_those_of_both_targets_and_engines(tmp_path: Path) -> None:
    done = said("--dry-run", "--device", "cpu", "--shape", "small", "--out", str(tmp_path / "out"), "--limit", "3",
                "--methods", "hf-generate layerskip:exit_layer=2")  # fmt: skip
    assert done.returncode == 0 and not done.stderr and not list(tmp_path.iterdir()), "nothing is written"
    runs = [shlex.split(line)[3:] for line in done.stdout.splitlines() if " -m fastvlm_bench run " in line]
    found = [(run[run.index("--model") + 1], run[run.index("--engine") + 1], "--compile" in run) for run in runs]
    target = str(tmp_path / "out" / "target")
    ways = [("eager", False), ("graphs", False), ("eager", True)]  # on a CPU recorded passes see no compiled code
    assert found == [(model, *way) for model in ("tiny", target) for way in ways]
    for run in runs:
        assert run[run.index("--device") + 1] == "cpu" and run[run.index("--limit") + 1] == "3"
        assert [run[i + 1] for i, word in enumerate(run) if word == "-m"] == ["hf-generate", "layerskip:exit_layer=2"]
    assert "--shape 7b --device cuda:1" in said("--dry-run", "--device", "cuda:1").stdout
    assert len(re.findall(r" -m all ", said("--dry-run").stdout)) == 6
    assert len(re.findall(r" --engine graphs --compile ", said("--dry-run").stdout)) == 2


def test_options_of_run_are_those_that_it_has() -> None:
    from typer.main import get_command

    from fastvlm_bench.cli.app import app

    known = {name for option in get_command(app).commands["run"].params for name in option.opts}  # type: ignore[attr-defined]
    line = next(line for line in said("--dry-run").stdout.splitlines() if " run " in line and "--compile" in line)
    used = {word for word in shlex.split(line) if word.startswith("-")}
    assert used and used <= known


def test_the_random_target_is_a_llava_that_drafts_well_with_its_first_layers(tmp_path: Path) -> None:
    path = RESULTS / "random_target.py"
    spec = importlib.util.spec_from_file_location("random_target", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["random_target"] = module
    spec.loader.exec_module(module)
    text, vision = module.SHAPES["7b"]
    assert text == {} and vision["num_hidden_layers"] == 24, "Vicuna 7B is transformers' own default of Llama"
    module.write_target(tmp_path / "target", "small", "cpu")
    target = load_target(str(tmp_path / "target"), device="cpu")
    from PIL import Image

    from fastvlm_bench.decoding.layerskip import LayerSkip

    inputs = target.encode(Image.new("RGB", (64, 48), "red"), "Describe the image.")
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    plain = target.model.generate(**inputs, **options)
    method = LayerSkip(module.EXIT, gamma=4)
    assert torch.equal(target.model.generate(**inputs, **options, custom_generate=method), plain)
    assert method.last is not None
    tested, accepted = (sum(getattr(r, name) for r in method.last.rounds) for name in ("tested", "accepted"))
    assert accepted > 0.5 * tested
