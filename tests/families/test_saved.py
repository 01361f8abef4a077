"""Each family as a stranger tries it: a saved folder with its processor, through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from covering import covering
from families.builders import plain
from families.proof import Scripted, decode, several_images
from families.saved import PROCESSORS, save, unmade
from suites.conftest import picture
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.drafts.imitation_head import Draft, describe_target, new_head
from fastvlm_bench.drafts.manifest import Manifest
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.records.record import read_run
from fastvlm_bench.suites.suite import load_suite

FAST = ("qwen2_vl",)
FEW = 16
ONE_IMAGE = {"blip2", "blip2_t5", "instructblip", "instructblip_t5", "kosmos2", "florence2"}
WITHOUT_TEMPLATE = ONE_IMAGE | {"paligemma", "paligemma2"}
Saved = tuple[str, Path, Path]  # name, checkpoint folder, draft folder


def save_draft(checkpoint: Path, folder: Path, exit_layer: int = 2) -> Path:
    """An untrained draft for a saved checkpoint."""
    model = load_target(str(checkpoint), device="cpu").model
    head = new_head("attention", model, exit_layer)
    parameters = sum(p.numel() for p in head.parameters())
    manifest = Manifest(exit_layer=exit_layer, head="attention", head_parameters=parameters, **describe_target(model))
    Draft(exit_layer, head, manifest).save(folder)
    return folder


@pytest.fixture(scope="module")
def call() -> Callable[..., Any]:
    def invoke(*arguments: str | Path) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "100"})

    return invoke


@pytest.fixture(
    scope="module",
    params=covering(sorted(PROCESSORS), FAST),
)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    if package := unmade(request.param):
        pytest.skip(f"its processor or image encoder needs {package}")
    folder = save(request.param, tmp_path_factory.mktemp(request.param) / "model")
    return request.param, folder, save_draft(folder, folder.parent / "draft")


def test_run(saved: Saved, call: Callable[..., Any], tmp_path: Path) -> None:
    name, folder, draft = saved
    result = call(
        "run", "--model", folder, "--draft", draft, "--suite", "coco-caption", "--limit", "2", "--warmup", "0",
        "--threads", "1", "--device", "cpu", "--max-new-tokens", "12", "--out", tmp_path / "results",
        "-m", "fastvlm:gamma=3,stop_below=0", "-m", "layerskip:exit_layer=3,gamma=2,stop_below=0", "-m", "hf-generate",
        "--offline",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.count("2/2") == 3, result.stdout
    run = read_run(next((tmp_path / "results").glob("*/run.json")).parent)
    assert len(run.lines) == 2 * 4 and not any(line["error"] for line in run.lines)
    answers = {line["sample_id"]: line["token_ids"] for line in run.lines if line["method"] == "standard"}
    assert max(len(set(tokens)) for tokens in answers.values()) >= 5, "outputs prove little"
    for line in run.lines:
        assert line["token_ids"] == answers[line["sample_id"]], f"{name}, {line['method']}"
        assert line["method"] == "standard" or line["losslessness"]["outcome"] == "identical"
    facts = run.meta["model"]["preflight"]
    assert facts["layers"] == 5 and facts["croppable"] and facts["kv_bytes"] > 0
    assert run.meta["suites"][0]["samples"][0]["rendered"] == facts["prompt"]
    assert run.meta["config"]["offline"] is True


def test_check(saved: Saved, call: Callable[..., Any]) -> None:
    _, folder, draft = saved
    result = call("models", "--check", folder, "--suite", "describe", "--device", "cpu", "--draft", draft)
    assert result.exit_code == 0, result.output
    rows = dict(line.split(maxsplit=1) if line[:4] not in ("text", "exit") else (line[:6], line) for line in
                result.stdout.splitlines())  # fmt: skip
    assert {"class", "text l", "cache", "prompting", "prompt", "vocabulary", "memory"} <= rows.keys()
    assert rows["draft"].endswith("fits: exit 2, attention head") or "refused" in rows["draft"]
    assert result.stdout.count("verification matches a full pass") == 4


@pytest.fixture(scope="module")
def target(saved: Saved) -> Target:
    return load_target(str(saved[1]), device="cpu")


@pytest.mark.slow  # test_turns_run.py has turns in the default run
def test_mmspec_of_several_turns(saved: Saved, call: Callable[..., Any], tmp_path: Path) -> None:
    """MMSpec's own files, small: the tokens of each turn are standard decoding's, or the family is refused by name."""
    name, folder, _ = saved
    turns = {"talk": ["Describe <image 1>.", "What else?"], "plain": ["What is it?"]}
    rows = [{"id": key, "image": f"{key}.png", "turns": own, "category": "c", "topic": key}
            for key, own in turns.items()]  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mmspec.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for place, key in enumerate(turns):
        picture(tmp_path / "data" / "images" / f"{key}.png", (120 - 40 * place, 70))
    result = call(
        "run", "--model", folder, "--suite", "mmspec", "--data", tmp_path / "data", "--warmup", "0", "--threads", "1",
        "--device", "cpu", "--max-new-tokens", "6", "--out", tmp_path / "out",
        "-m", "layerskip:exit_layer=2,stop_below=0",
    )  # fmt: skip
    if name in WITHOUT_TEMPLATE:
        assert result.exit_code == 2 and "reads one image and one question at a time, not 2 turns" in result.stderr
        return
    assert result.exit_code == 0, result.output
    lines = read_run(next((tmp_path / "out").glob("*/run.json")).parent).lines
    assert [line["sample_id"] for line in lines[::2]] == ["talk", "talk#2", "plain"]
    assert not any(line["error"] for line in lines)
    judged = [line["losslessness"]["outcome"] for line in lines if line["losslessness"]]
    assert judged == ["identical"] * 3 and lines[2]["prompt_tokens"] > lines[0]["prompt_tokens"]


@pytest.mark.parametrize("count", covering([2, 3], [3]))
def test_several_images_in_one_prompt(saved: Saved, target: Target, count: int) -> None:
    name, _, _ = saved
    inputs = several_images(target, load_suite("coco-caption", limit=3), count)
    if inputs is None:
        assert name in ONE_IMAGE, name
        pytest.skip("its template or processor takes one image")
    assert name not in ONE_IMAGE
    expected = plain(target.model, inputs, FEW)
    for exit_layer, gamma in ((1, 3), (2, 6), (4, 1)):  # test_families has all pairs: images change the prompt only
        method = Scripted(expected, exit_layer, gamma=gamma)
        assert decode(target.model, inputs, method, FEW) == expected, f"{name}, exit {exit_layer}, gamma {gamma}"


@pytest.mark.slow
def test_half_precision(saved: Saved, call: Callable[..., Any], tmp_path: Path) -> None:
    name, folder, _ = saved
    result = call(
        "run", "--model", folder, "--suite", "coco-caption", "--limit", "2", "--warmup", "0", "--threads", "1",
        "--device", "cpu", "--max-new-tokens", "6", "--out", tmp_path, "-m", "layerskip:exit_layer=2,stop_below=0",
        "--dtype", "bfloat16", "--attn", "eager",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    run = read_run(next(tmp_path.glob("*/run.json")).parent)
    assert run.meta["model"]["dtype"] == "bfloat16" and run.meta["model"]["attention"] == "eager"
    outcomes = {line["losslessness"]["outcome"] for line in run.lines if line["method"] != "standard"}
    assert outcomes <= {"identical", "near-tie", "unsteady"}, f"{name}: {outcomes}"


@pytest.mark.slow  # test_mixing.py and test_run.py name what differs, in the default run
def test_a_changed_option_is_not_resumed(call: Callable[..., Any], tmp_path: Path) -> None:
    """Each option of loading that changes what is measured is part of the resume check."""
    options = ["run", "--limit", "2", "--warmup", "0", "--threads", "1", "--max-new-tokens", "4", "-m", "standard"]
    result = call(*options, "--attn", "eager", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    folder = next(tmp_path.glob("*/run.json")).parent
    assert json.loads((folder / "run.json").read_text())["model"]["attention"] == "eager"
    again = call(*options, "--attn", "sdpa", "--out", tmp_path, "--resume", folder)
    assert again.exit_code == 2 and "attn" in again.stderr
