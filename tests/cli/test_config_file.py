"""`--config FILE`: its keys are options; the command line wins over it, it wins over defaults."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import fastvlm_bench.measuring.batch_sweep
import fastvlm_bench.measuring.benchmark
import fastvlm_bench.training.fit
from fastvlm_bench.config import RunConfig
from fastvlm_bench.records.record import read_run

ROOT = Path(__file__).parents[2]
RECORDED = sorted((ROOT / "results").glob("*/run.json"))
PAGE = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
Asked = Callable[..., Any]


@pytest.fixture(autouse=True)
def loud_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What --quiet sets for the rest of its process ends with the test."""
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")


@pytest.fixture
def asked(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What `run ARGUMENTS` would measure, as a RunConfig; what it was told besides in `told`."""
    seen: list[RunConfig] = []

    def measure(config: RunConfig, *_: Any, **told: Any) -> int:
        seen.append(config)
        invoke.told = told  # type: ignore[attr-defined]
        return 0

    monkeypatch.setattr(fastvlm_bench.measuring.benchmark, "run_benchmark", measure)

    def invoke(*arguments: str | Path) -> RunConfig:
        result = call("run", *arguments)
        assert result.exit_code == 0, result.output
        return seen[-1]

    return invoke


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


WANTED = RunConfig(
    suites=("describe", "vqav2"), methods=("fastvlm:gamma=4", "layerskip"), variants=("vqa_accuracy=official",),
    max_new_tokens=9, limit=3, dtype="bfloat16", ignore_eos=True, until_width=0.5, margin=1.0, out="elsewhere",
    data=str(Path.home() / "coco"),
)  # fmt: skip
VALUES: dict[str, Any] = {
    "suite": ["describe", "vqav2"], "methods": ["fastvlm:gamma=4", "layerskip"], "variant": "vqa_accuracy=official",
    "max-new-tokens": 9, "limit": 3, "dtype": "bf16", "ignore_eos": True, "until_width": "5e-1", "margin": 1,
    "output": "elsewhere", "data": "~/coco",
}  # fmt: skip


def as_toml(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.mark.parametrize(
    ("kind", "text"),
    [("toml", as_toml(VALUES)), ("json", json.dumps(VALUES)), ("yaml", yaml.safe_dump(VALUES)),
     ("yml", yaml.safe_dump({**VALUES, "draft": None})), ("toml", "\ufeff" + as_toml(VALUES))],
)  # fmt: skip
def test_each_format_says_the_same(asked: Asked, tmp_path: Path, kind: str, text: str) -> None:
    assert asked("--config", write(tmp_path, f"own.{kind}", text)) == WANTED


@pytest.mark.parametrize("name", ["empty.toml", "empty.yaml", "empty.json"])
def test_a_file_that_says_nothing_leaves_the_defaults(asked: Asked, tmp_path: Path, name: str) -> None:
    assert asked("--config", write(tmp_path, name, "")) == RunConfig()


def test_the_command_line_wins_over_the_file(asked: Asked, tmp_path: Path) -> None:
    own = write(tmp_path, "own.toml", as_toml({**VALUES, "offline": True, "quiet": True}))
    assert asked("--config", own).offline and asked.told["quiet"]  # type: ignore[attr-defined]
    config = asked("-s", "describe", "--config", own, "--limit", "7", "--no-offline", "--no-ignore-eos", "-m",
                   "standard", "--no-quiet")  # fmt: skip
    assert (config.suites, config.methods, config.limit) == (("describe",), ("standard",), 7)
    assert (config.offline, config.ignore_eos) == (False, False)
    assert not asked.told["quiet"]  # type: ignore[attr-defined]
    assert (config.max_new_tokens, config.out, config.warmup) == (9, "elsewhere", RunConfig().warmup)


def test_where_results_go_may_be_in_the_file(asked: Asked, tmp_path: Path) -> None:
    values = {"csv": "table.csv", "predictions_out": "p.json", "json": True, "resume": "results/RUN"}
    asked("--config", write(tmp_path, "own.toml", as_toml(values)))
    told = asked.told  # type: ignore[attr-defined]
    assert (told["csv"], told["predictions"], told["as_json"]) == (Path("table.csv"), Path("p.json"), True)
    assert told["resume"] == Path("results/RUN")


@pytest.mark.parametrize("sizes", ["[1, 2, 8]", '"1,2,8"'])
def test_a_list_of_batch_sizes(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: str
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        fastvlm_bench.measuring.batch_sweep, "run_sizes", lambda _, sizes, **__: seen.append(sizes) or 0
    )
    assert call("run", "--config", write(tmp_path, "own.toml", f"batch_size = {sizes}")).exit_code == 0
    assert seen == [(1, 2, 8)]


# ------------------------------------------------------------------------------------------ earlier runs


def test_there_are_recorded_runs() -> None:
    assert len(RECORDED) >= 3


@pytest.mark.parametrize("record", RECORDED, ids=lambda path: path.parent.name)
def test_a_recorded_configuration_is_read_back(asked: Asked, record: Path) -> None:
    """By the folder or its run.json; the same measurement, since its hash is the one that was recorded."""
    meta = json.loads(record.read_text(encoding="utf-8"))
    for given in (record, record.parent):
        config = asked("--config", given)
        assert config == RunConfig.from_dict(meta["config"]) and config.sha256() == meta["config_sha256"]
    assert asked("--config", record, "--seed", "5").sha256() != meta["config_sha256"]


def test_each_field_of_a_record_is_an_option(asked: Asked, tmp_path: Path) -> None:
    changed = {
        "suites": ["vqav2"], "methods": ["standard", "layerskip"], "variants": ["vqa_accuracy=official"], "gamma": 4,
        "exit_layer": 3, "prompt_set": "llava", "until_width": 0.02, "budget": 60.0, "energy": 5.0,
        "attn": "eager", "quantize": "4bit", "device_map": "auto", "trust_remote_code": True, "top_p": 0.9,
        "java": True, "temperature": 0.7, "top_k": 20, "phases": True, "threads": 1, "data": "d",
        "split": "s", "draft": "x",
    }  # fmt: skip
    recorded = {**RunConfig().to_dict(), **changed}
    path = write(tmp_path, "run.json", json.dumps({"run_id": "r", "config": recorded}))
    assert asked("--config", path).to_dict() == recorded


# ------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("own.toml", "gama = 3", ["unknown key 'gama'", "an option of run", "gamma", "did you mean 'gamma'?"]),
        ("own.toml", "[run]\nlimit = 3", ["unknown key 'run'"]),
        ("own.toml", 'config = "x"', ["unknown key 'config'"]),
        ("own.yaml", "1: 3", ["unknown key '1'"]),
        ("own.toml", 'limit = "many"', ["'limit' is \"many\"; it must be a whole number"]),
        ("own.toml", "limit = 2.5", ["'limit' is 2.5; it must be a whole number"]),
        ("own.toml", "limit = true", ["'limit' is true; it must be a whole number"]),
        ("own.toml", "max-new-tokens = [1]", ["'max-new-tokens' is [1]; it must be a whole number"]),
        ("own.toml", 'margin = "wide"', ["'margin' is \"wide\"; it must be a number"]),
        ("own.toml", "phases = 1", ["'phases' is 1; it must be true or false"]),
        ("own.toml", 'offline = "no"', ["'offline' is \"no\"; it must be true or false"]),
        ("own.toml", "split = 2014", ["'split' is 2014; it must be a text"]),
        ("own.yaml", "revision: 1.0", ["'revision' is 1.0; it must be a text"]),
        ("own.toml", "out = 3", ["'out' is 3; it must be a path"]),
        ("own.toml", "suites = [1]", ["'suites' is [1]; it must be a text or a list of texts"]),
        ("own.toml", "suites = {a = 1}", ["'suites' is", "a text or a list of texts"]),
        ("own.toml", "batch_size = [1.5]", ["'batch_size' is [1.5]; it must be a whole number, a list of them"]),
        ("own.toml", "batch_size = []", ["'batch_size' is []"]),
        ("own.toml", 'suite = "describe"\nsuites = "vqav2"', ["'suites' says again", "(suite)"]),
        ("own.toml", 'dtype = "bf-16"', ["unknown dtype 'bf-16'", "did you mean 'bf16'?"]),
        ("own.toml", "limit = =", ["is not valid TOML", "line 1"]),
        ("own.json", "{", ["is not valid JSON", "line 1"]),
        ("own.yaml", "a: [1", ["is not valid YAML", "line 1"]),
        ("own.json", "[1]", ["is [1]; it must be keys with values"]),
        ("own.yaml", "many", ["it must be keys with values"]),
        ("own.ini", "limit=3", ["ends in .toml, .yaml, .yml or .json"]),
    ],
)  # fmt: skip
def test_refusals(refused: Callable[..., str], tmp_path: Path, name: str, text: str, says: list[str]) -> None:
    path = write(tmp_path, name, text)
    line = refused("run", "--config", path)
    assert (f"--config {path}" in line) == ("dtype" not in text)
    for piece in says:
        assert piece in line


def test_files_that_cannot_be_read(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "No such file" in refused("run", "--config", tmp_path / "none.toml")
    assert "has no run.json; name a run's folder" in refused("run", "--config", tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "is not valid TOML" in refused("run", "--config", tmp_path / "binary.toml")


# ------------------------------------------------------------------------------------------ model and revision


def test_a_revision_in_the_file_belongs_to_its_model(asked: Asked, refused: Callable[..., str], tmp_path: Path) -> None:
    apart = write(tmp_path, "apart.toml", 'model = "org/m"\nrevision = "v1"\nmethods = "standard"')
    joined = write(tmp_path, "joined.toml", 'model = "org/m@v1"\nmethods = "standard"')
    for own in (apart, joined):
        assert asked("--config", own).model == "org/m@v1"
        assert asked("--config", own, "--revision", "v2").model == "org/m@v2"
        assert asked("--config", own, "--model", "org/other").model == "org/other"
        assert asked("--config", own, "--model", "tiny").model == "tiny"
        assert asked("--config", own, "--model", "org/other", "--revision", "v3").model == "org/other@v3"
    both = write(tmp_path, "both.toml", 'model = "org/m@v1"\nrevision = "v2"')
    assert "--revision v2 contradicts --model org/m@v1" in refused("run", "--config", both)


# ------------------------------------------------------------------------------------------ other commands


def test_train(call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        fastvlm_bench.training.fit, "train", lambda settings, **told: seen.append((settings, told)) or 0
    )
    text = (
        f"output: {tmp_path / 'draft'}\nsuites: describe\nheads: [mlp, attention]\nexit_layers: [1, 2]\nlr: 1e-2\n"
        "on-policy: false\nreferences: true\nbatch: 4\nquiet: true\n"
    )
    result = call("train", "--config", write(tmp_path, "own.yaml", text), "--batch", "8")
    assert result.exit_code == 0, result.output
    ((settings, told),) = seen
    assert (settings.out, settings.suites, settings.heads) == (
        str(tmp_path / "draft"), ("describe",), ("mlp", "attention"),
    )  # fmt: skip
    assert (settings.exit_layers, settings.lr, settings.batch) == (("1", "2"), 0.01, 8)
    assert (settings.on_policy, settings.references, told) == (False, True, {"quiet": True})


def test_ablate_knows_its_own_keys(refused: Callable[..., str], tmp_path: Path) -> None:
    own = write(tmp_path, "own.toml", f'out = {json.dumps(str(tmp_path))}\nrecipes = ["mlp"]\nrepeats = 2')
    assert "unknown key 'repeats'; it must be an option of ablate" in refused("ablate", "--config", own)


# ------------------------------------------------------------------------------------------ the example, for real


def test_the_examples_of_the_page_are_the_same() -> None:
    (toml,), (text,) = (re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.S) for kind in ("toml", "yaml"))
    assert tomllib.loads(toml) == yaml.safe_load(text)


@pytest.mark.slow
def test_the_example_of_the_page_is_run_and_recorded(call: Callable[..., Any], tmp_path: Path) -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.S)
    own = write(tmp_path, "captions.toml", toml)
    result = call("run", "--config", own, "--limit", "1", "--max-new-tokens", "6", "--threads", "1", "-o",
                  tmp_path / "results", "-q")  # fmt: skip
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "results").iterdir()
    wanted = tomllib.loads(toml) | {"out": str(tmp_path / "results"), "limit": 1, "threads": 1, "dtype": "float32"}
    wanted["max_new_tokens"] = 6
    wanted["methods"] = ["standard", *wanted["methods"]]
    config = read_run(folder).meta["config"]
    assert config == {**RunConfig().to_dict(), **wanted}
    assert {line["method"] for line in read_run(folder).lines} == set(wanted["methods"])


def test_an_altered_record_is_no_configuration(call: Callable[..., Any], tmp_path: Path) -> None:
    meta = json.loads(RECORDED[0].read_text(encoding="utf-8"))
    meta["config"]["max_new_tokens"] = 3
    result = call("run", "--config", write(tmp_path, "run.json", json.dumps(meta)))
    assert result.exit_code == 6 and "Traceback" not in result.output
    assert "config.max_new_tokens does not fit the seal" in " ".join(result.stderr.split())
