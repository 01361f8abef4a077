"""Where a checkpoint folder cannot be loaded, the file that is at fault is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from covering import covering
from targets import random_llava
from transformers import GenerationConfig

from fastvlm_bench.embedded.parts import build_processor, save
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.checkpoint_settings import DECIDED, FILE
from fastvlm_bench.models.faulty_files import JSON_FILES
from fastvlm_bench.models.load import load_target

DAMAGES = {
    "a byte order mark": lambda whole: b"\xef\xbb\xbf" + whole,
    "cut off": lambda whole: whole[: len(whole) // 2],
    "no text": lambda whole: b"\xff\xfe\x00" + whole,
    "a list": lambda whole: b"[" + whole + b"]",
    "empty": lambda whole: b"",
}
ODD: tuple[Any, ...] = (True, 0, -1, 1.5, "x", [], ["a"], {}, {"a": 1})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "model"
    model, tokenizer = random_llava(3, seed=3)
    save(model, build_processor(tokenizer), folder)
    return folder


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(UsageError) as refusal:
        load_target(str(folder), device="cpu")
    told = str(refusal.value)
    assert "\n" not in told and "huggingface.co" not in told
    return told


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", FILE, "processor_config.json", "tokenizer_config.json",
                                  "tokenizer.json"])  # fmt: skip
def test_a_file_that_is_no_json_object_is_named(name: str, damage: str, copied: Path) -> None:
    assert name in JSON_FILES
    (copied / name).write_bytes(DAMAGES[damage]((copied / name).read_bytes()))
    told = refused(copied)
    assert f"{copied / name} is damaged, it is no JSON" in told and "copy it anew" in told


@pytest.mark.parametrize(
    ("name", "what"), [("processor_config.json", "image processor"), ("tokenizer.json", "tokenizer")]
)
def test_a_part_of_the_processor_that_is_missing_is_named(name: str, what: str, copied: Path) -> None:
    (copied / name).unlink()
    told = refused(copied)
    assert f"{copied} has no {what}: none of " in told and name in told


REFUSED = []
for _field in DECIDED:
    for _value in ODD:
        try:
            GenerationConfig(**{_field: _value})
        except Exception:
            REFUSED.append((_field, _value))


@pytest.mark.parametrize(("field", "value"), covering(REFUSED[::3], REFUSED[::12]))
def test_a_setting_that_a_run_decides_and_transformers_refuses_is_named(field: str, value: Any, copied: Path) -> None:
    """Every third pair of a field and an odd value that the installed transformers refuses."""
    told = json.loads((copied / FILE).read_text())
    (copied / FILE).write_text(json.dumps({**told, field: value}))
    said = refused(copied)
    assert f"{copied / FILE} has {field}={value!r}, which transformers refuses" in said and "weights" not in said


def test_some_settings_are_refused_by_transformers() -> None:
    assert {"compile_config", "cache_implementation"} <= {field for field, _ in REFUSED}
