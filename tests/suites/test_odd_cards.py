"""Cards, rows, links and spellings that are odd: they end in one line, or are read as the hub reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from covering import covering
from suites.as_tables import png, write_table
from suites.fake_hub import Hub, hub
from suites.test_table_suites import cache, mmmu_row
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.records import storage
from fastvlm_bench.suites import tables
from fastvlm_bench.suites.hub_data import Folder, HubData
from fastvlm_bench.suites.suite import load_suite
from fastvlm_bench.suites.table_files import table_files
from suites import as_tables

__all__ = ["cache", "hub"]  # fixtures

CARDS = {
    "bad date": "date: 2024-13-45\nconfigs: [{config_name: a, data_files: [{split: validation, path: x.parquet}]}]",
    "path is a number": "configs: [{config_name: a, data_files: [{split: validation, path: 3}]}]",
    "path is a map": "configs: [{config_name: a, data_files: [{split: validation, path: {a: b}}]}]",
    "path has odd items": (
        "configs: [{config_name: a, data_files: [{split: validation, path: [[1], x.parquet, {a: b}]}]}]"
    ),
    "configs is a number": "configs: 3",
    "configs is a text": "configs: all",
    "configs is a map": "configs: {a: b}",
    "a config is null": "configs: [null, 3, text]",
    "data_files is a number": "configs: [{config_name: a, data_files: 3}]",
    "data_files is a map": "configs: [{config_name: a, data_files: {val: x.parquet}}]",
    "an item is a number": "configs: [{config_name: a, data_files: [3, null]}]",
    "keys are lists": "[a, b]: c",
    "no map": "- a\n- b",
    "a tag": "configs: !!python/object:os.system [a]",
    "deep": "[" * 1200,
    "empty": "",
}


@pytest.mark.parametrize("card", covering(CARDS, lambda card: card != "deep"))
def test_an_odd_card_hinders_nothing(tmp_path: Path, card: str) -> None:
    """What it does not declare is found by names."""
    (tmp_path / "README.md").write_text(f"---\n{CARDS[card]}\n---\n# A data set\n")
    for name in ("validation-00000-of-00001.parquet", "x.parquet"):
        (tmp_path / name).write_bytes(b"")
    declared = card in ("bad date", "path has odd items")
    found = table_files(Folder(tmp_path), "*/validation")
    assert found == (["x.parquet"] if declared else ["validation-00000-of-00001.parquet"])


@pytest.mark.parametrize("data_files", ["x.parquet", "[x.parquet]", "[{path: x.parquet}]", "'x*'"])
def test_data_files_as_texts_are_the_split_train(tmp_path: Path, data_files: str) -> None:
    """As the hub has it."""
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n  data_files: {data_files}\n---\n")
    for name in ("x.parquet", "y.parquet"):
        (tmp_path / name).write_bytes(b"")
    assert table_files(Folder(tmp_path), "a/train") == ["x.parquet"]


@pytest.mark.parametrize("text", ["{image_id} {question_id}", "{question}", "{row}", "{image_id", "{{question_id}}"])
def test_braces_in_data_stay(data: Path, tmp_path: Path, text: str) -> None:
    """A template of two fields, whose first value names the second: it is data, and not filled again."""
    path = tmp_path / "hub" / "data" / "test-00000-of-00001.parquet"
    rows = [{"question_id": "7", "question": text, "answer": "yes", "category": text, "image_source": text,
             "image": as_tables.image(next((data / "val2014").iterdir()))}]  # fmt: skip
    write_table(path, rows)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.toml").write_text("""
version = "1"
title = "Mine"
kind = "vqa"
prompt = "{question}"
max_new_tokens = 8
metrics = []
licence = "mine"
citation = "none"
default_split = "test"
[splits.test]
format = "table"
[splits.test.table]
rows = "*/test"
id = "{image_source}-{question_id}"
image = "image"
image_id = "{question_id}/{image_source}/{category}"
question = "{question} {answer}"
references = "answer"
group = "{category}{answer}"
""")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path / "suites"))
        (sample,) = load_suite("mine", data=tmp_path / "hub").samples
    assert (sample.sample_id, sample.image_id) == (f"{text}-7", f"7/{text}/{text}")
    assert (sample.prompt, sample.group) == (f"{text} yes", f"{text}yes")


@pytest.mark.parametrize("place", ["x.png", "images/x.png", "val2014/x.png"])
@pytest.mark.parametrize("form", ["path", "struct"])
@pytest.mark.parametrize("name", ["x.png", "./x.png", ".//x.png"])
def test_an_image_that_is_a_link_is_followed(data: Path, tmp_path: Path, place: str, form: str, name: str) -> None:
    (tmp_path / "elsewhere.png").write_bytes(png())
    root = tmp_path / "hub"
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(tmp_path / "elsewhere.png")
    rows = [{**row, "image": name if form == "path" else {"bytes": None, "path": name}}
            for row in as_tables.vqa()(data)]  # fmt: skip
    write_table(root / "data" / "validation-00000-of-00001.parquet", rows)
    samples = load_suite("vqav2", split="val2014", data=root).samples
    assert len(samples) == 6 and {sample.image_path.resolve() for sample in samples} == {tmp_path / "elsewhere.png"}


def test_an_image_folder_may_be_a_link(data: Path, tmp_path: Path) -> None:
    """As people have COCO's images on another disk, and as official files may have them."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "x.png").write_bytes(png())
    root = tmp_path / "hub"
    root.mkdir()
    (root / "val2014").symlink_to(disk)
    write_table(root / "data" / "validation-00000-of-00001.parquet",
                [{**row, "image": "x.png"} for row in as_tables.vqa()(data)])  # fmt: skip
    assert len(load_suite("vqav2", split="val2014", data=root).samples) == 6


def test_images_are_unpacked_by_the_one_way_of_writing_files(
    data: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def record(path: Path, content: bytes) -> None:
        written.append(path)
        storage.write_atomically(path, content)

    monkeypatch.setattr(tables, "write_atomically", record, raising=False)
    write_table(tmp_path / "hub" / "Art" / "validation-00000-of-00001.parquet", [mmmu_row()])
    load_suite("mmmu", data=tmp_path / "hub")
    assert written == list(cache.iterdir())


@pytest.mark.parametrize("prepare", [True, False], ids=["mkdir", "write"])
def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, cache: Path, prepare: bool) -> None:
    write_table(tmp_path / "hub" / "Art" / "validation-00000-of-00001.parquet", [mmmu_row()])
    if prepare:
        cache.parent.mkdir(parents=True)
        cache.write_text("in the way")
    else:
        loaded = load_suite("mmmu", data=tmp_path / "hub").samples[0].image_path
        loaded.unlink()
        loaded.mkdir()
        (loaded / "in the way").write_text("")
    with pytest.raises(UsageError, match="cannot unpack images to .*; set XDG_CACHE_HOME"):
        load_suite("mmmu", data=tmp_path / "hub")


@pytest.mark.parametrize("given", ["hf://datasets/a/b", "hf:/datasets/a/b", "hf://a/b", "HF:a/b", "Hf://datasets/a/b/",
                                   "hf:datasets/a/b"])  # fmt: skip
@pytest.mark.parametrize("revision", ["", "@main"])
def test_another_spelling_of_the_hub_says_what_is_meant(hub: Hub, given: str, revision: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean hf:a/b{revision}\?"):
        load_suite("mmmu", data=given.removesuffix("/") + revision)
    result = CliRunner().invoke(app, ["suites", "show", "mmmu", "--data", given + revision * (given[-1] != "/")])
    assert result.exit_code == 2 and "did you mean hf:a/b" in str(result.output) + str(result.exception)


@pytest.mark.parametrize("given", ["hf:", "hf:///", "HF:nothing", "hf:a/b/c/d"])
def test_what_cannot_be_meant_has_no_hint(given: str) -> None:
    with pytest.raises(UsageError, match="as hf:OWNER/NAME") as error:
        HubData(given)
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("given", ["hf:lmms-lab/MMMU", "HF:lmms-lab/MMMU", "hf://datasets/lmms-lab/MMMU"])
@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--limit", "3"]])
def test_nothing_is_prepared_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    call: Callable[..., Any] = CliRunner().invoke
    result = call(app, ["suites", "prepare", "vqav2", "--data", given, *more])
    assert result.exit_code == 2 and "nothing to prepare: run --data hf:lmms-lab/MMMU " in result.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.lower().startswith("hf")]
