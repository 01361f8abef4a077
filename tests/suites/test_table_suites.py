"""Every suite that people also have as parquet: the same samples and scores as from the official files."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from suites.as_tables import Rows, png, write_table
from suites.official import MAKE

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites import catalogue
from fastvlm_bench.suites.definition import describe_suites
from fastvlm_bench.suites.suite import Sample, Suite, check_images, load_suite
from suites import as_tables

TWINS: list[tuple[str, str, Callable[[Path], Rows], str]] = [
    ("coco-caption", "val2014", as_tables.coco("2014"), "data/val-00000-of-00001.parquet"),
    ("coco-caption", "val2017", as_tables.coco("2017"), "data/val-00000-of-00001.parquet"),
    ("nocaps", "val", as_tables.nocaps, "data/validation-00000-of-00001.parquet"),
    ("nocaps", "val-near", as_tables.nocaps, "data/validation-00000-of-00001.parquet"),
    ("flickr30k", "karpathy-test", as_tables.flickr30k, "data/test-00000-of-00001.parquet"),
    ("vqav2", "val2014", as_tables.vqa(), "data/validation-00000-of-00001.parquet"),
    ("okvqa", "val2014", as_tables.vqa(plain=True), "data/val2014-00000-of-00001.parquet"),
    ("textvqa", "val", as_tables.textvqa, "data/validation-00000-of-00001.parquet"),
    ("docvqa", "val", as_tables.docvqa, "DocVQA/validation-00000-of-00001.parquet"),
    ("chartqa", "test", as_tables.chartqa, "data/test-00000-of-00001.parquet"),
    ("chartqa", "test-augmented", as_tables.chartqa, "data/test-00000-of-00001.parquet"),
    ("pope", "all", as_tables.pope, "data/test-00000-of-00001.parquet"),
    ("pope", "popular", as_tables.pope, "Full/popular-00000-of-00001.parquet"),
    ("scienceqa-img", "test", as_tables.scienceqa, "ScienceQA-IMG/test-00000-of-00001.parquet"),
    ("mm-vet", "v1", as_tables.mm_vet, "data/test-00000-of-00001.parquet"),
    ("llava-bench", "wild", as_tables.llava_bench, "data/train-00000-of-00001.parquet"),
]
HASHED = ("chartqa", "mm-vet", "llava-bench")
"""Suites whose tables do not tell the image's official name: its content does."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastvlm-bench" / "images"


def essence(suite: Suite, images: bool = True) -> list[Sample]:
    """The samples without where they lie."""
    return [replace(s, image_path=Path(), image_id=s.image_id if images else "") for s in suite.samples]


def pixels(suite: Suite) -> list[bytes]:
    return [sample.image_path.read_bytes() for sample in suite.samples]


@pytest.mark.parametrize(("name", "split", "rows", "file"), TWINS, ids=[f"{t[0]}-{t[1]}" for t in TWINS])
def test_a_table_gives_the_same_samples(
    data: Path, tmp_path: Path, name: str, split: str, rows: Callable[[Path], Rows], file: str
) -> None:
    if name not in ("coco-caption", "vqav2"):
        MAKE[name](data)
    write_table(tmp_path / "hub" / file, rows(data), row_group_size=2)
    official = load_suite(name, split=split, data=data)
    table = load_suite(name, split=split, data=tmp_path / "hub")
    check_images(table)
    assert essence(table, name not in HASHED) == essence(official, name not in HASHED)
    assert pixels(table) == pixels(official)
    same = {a.image_id: b.image_id for a, b in zip(official.samples, table.samples, strict=True)}
    assert len(set(same.values())) == len(same), "samples of one image stay together"
    kept = (table.metrics, table.prompt, table.document_images, table.kind, table.results, table.variants)
    assert kept == (official.metrics, official.prompt, official.document_images, official.kind, official.results,
                    official.variants)  # fmt: skip


def test_every_suite_that_has_a_table_is_tested() -> None:
    """Of each repository one twin; the rest are like another split, or tested by themselves."""
    tested = {name for name, *_ in TWINS} | {"gqa", "mmmu", "mmstar", "mmstar-long", "coco-caption-long", "vqav2-long"}
    assert {suite.name for suite in describe_suites() if any(s.table for s in suite.splits.values())} <= tested


def test_gqa_joins_its_two_tables(tmp_path: Path) -> None:
    MAKE["gqa"](tmp_path / "official")
    hub = tmp_path / "hub"
    write_table(hub / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet",
                as_tables.gqa_questions(tmp_path / "official"))  # fmt: skip
    picture = as_tables.image(tmp_path / "official" / "images" / "n161313.jpg")
    images = [{"id": "other", "image": {"bytes": png(1), "path": None}}, {"id": "n161313", "image": picture}]
    folder = hub / "testdev_balanced_images"
    write_table(folder / "testdev-00000-of-00001.parquet", images)
    table, official = (load_suite("gqa", split="testdev", data=root) for root in (hub, tmp_path / "official"))
    assert essence(table) == essence(official) and pixels(table) == pixels(official)
    write_table(folder / "testdev-00000-of-00001.parquet", images[:1])
    with pytest.raises(UsageError, match=r"row 0 has image 'n161313', which testdev_.* does not hold \(2 such\)"):
        load_suite("gqa", data=hub)


def test_karpathys_rows_name_images_that_lie_beside_them(data: Path) -> None:
    """yerevann/coco-karpathy has captions and file names, no images: those of val2014 are found by name."""
    official = load_suite("coco-caption", split="karpathy-test", data=data)
    rows = [{"filename": s.image_path.name, "cocoid": int(s.sample_id), "sentences": list(s.references), "imgid": 1}
            for s in official.samples]  # fmt: skip
    (data / "dataset_coco.json").unlink()
    write_table(data / "data" / "test-00000-of-00001.parquet", rows)
    table = load_suite("coco-caption", split="karpathy-test", data=data)
    assert essence(table) == essence(official) and pixels(table) == pixels(official)
    (data / "val2014" / rows[0]["filename"]).unlink()
    with pytest.raises(UsageError, match="has no bytes, only the path 'COCO_val2014_.*', and no such file lies in"):
        load_suite("coco-caption", split="karpathy-test", data=data)


def mmmu_row(**other: Any) -> dict[str, Any]:
    row = {"id": "validation_Art_1", "question": "<image 1> What?", "options": "['it\\'s', \"B's\"]", "answer": "B",
           "question_type": "multiple-choice", "image_1": {"bytes": png(), "path": None}}  # fmt: skip
    return {**row, **dict.fromkeys([f"image_{n}" for n in range(2, 8)]), **other}


def mmmu(root: Path, *rows: dict[str, Any]) -> Suite:
    write_table(root / "Art" / "validation-00000-of-00001.parquet", rows)
    return load_suite("mmmu", data=root)


def test_mmmu_options_are_a_python_literal(tmp_path: Path) -> None:
    suite = mmmu(tmp_path, mmmu_row(), mmmu_row(id="v2", options="[]", answer="['x', 'y']"),
                 mmmu_row(id="v4", options="[]", answer="24/7"))  # fmt: skip
    check_images(suite)
    first, second, fourth = suite.samples
    assert (first.sample_id, second.sample_id, fourth.sample_id) == ("validation_Art_1", "v2", "v4")
    assert first.prompt.startswith("<image 1> What?\nA. it's\nB. B's\n\nAnswer with the option's letter")
    assert first.references == ("B", "A. it's", "B. B's") and first.image_path.read_bytes() == png()
    assert second.references == ("x", "y") and "phrase" in second.prompt and fourth.references == ("24/7",)
    for bad in ("__import__('os').getcwd()", "[1, 2]", "{", "['a' for x in y]", "{[1]: 2}", "[{[]}]", "-'a'"):
        with pytest.raises(UsageError, match="row 0.options is .*, not a Python list of texts"):
            mmmu(tmp_path, mmmu_row(options=bad))
    with pytest.raises(UsageError, match="answer is 'C', but there are 2 choices"):
        mmmu(tmp_path, mmmu_row(answer="C"))
    with pytest.raises(UsageError, match="a duplicate id"):
        mmmu(tmp_path, mmmu_row(), mmmu_row())
    with pytest.raises(UsageError, match="is null: the sample has no image"):
        mmmu(tmp_path, mmmu_row(image_1=None, image_2=None))


def test_mmmu_shows_the_images_that_its_text_names(tmp_path: Path) -> None:
    """As lmms-eval does: by their numbers, whether the question or an option names them."""
    held = {f"image_{n}": {"bytes": png(n), "path": None} for n in (1, 2, 3)}
    two, options, none = mmmu(
        tmp_path, mmmu_row(id="two", question="Compare <image 3> with <image 1>.", **held),
        mmmu_row(id="options", options="['<image 1>', '<image 2>']", **held), mmmu_row(id="none", question="?", **held),
    ).samples  # fmt: skip
    shown = [[path.read_bytes() for path in sample.image_paths] for sample in (two, options, none)]
    assert shown == [[png(1), png(3)], [png(1), png(2)], [png(1), png(2), png(3)]]
    assert two.prompt.startswith("Compare <image 3> with <image 1>.") and two.image_id == "two"
    for question, words in (("<image 4>", "refers to <image 4>, but image_4 is null"),
                            ("<image 9>", "refers to <image 9>, but there are 7 columns of images")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            mmmu(tmp_path, mmmu_row(question=question, **held))


def test_a_column_may_hold_lists_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suites").mkdir()
    text = (catalogue.suites_folder() / "mmmu.toml").read_text()
    text = re.sub(r"image = \[.*?\]", 'image = "images"', text).replace('choices = "options"', "")
    text = text.replace('answer = "answer"', 'references = "answer"').replace("\\n\\n{instruction}", "")
    (tmp_path / "suites" / "mine.toml").write_text(text)
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path / "suites"))
    row = {"id": "a", "question": "Is <image 2> like <image 1>?", "answer": "no",
           "images": [{"bytes": png(n), "path": None} for n in (1, 2)]}  # fmt: skip
    write_table(tmp_path / "data" / "validation-00000-of-00001.parquet", [row])
    (sample,) = load_suite("mine", data=tmp_path / "data").samples
    assert [path.read_bytes() for path in sample.image_paths] == [png(1), png(2)]
    write_table(tmp_path / "data" / "validation-00000-of-00001.parquet", [{**row, "question": "<image 3>?"}])
    with pytest.raises(UsageError, match="refers to <image 3>, but the sample has 2 images"):
        load_suite("mine", data=tmp_path / "data")


def test_mmmu_by_subject_and_in_one_folder(tmp_path: Path) -> None:
    """MMMU/MMMU has a folder for each subject, lmms-lab/MMMU one for all."""
    for place in ("Art", "Biology"):
        path = tmp_path / "subjects" / place / "validation-00000-of-00001.parquet"
        write_table(path, [mmmu_row(id=f"validation_{place}_1")])
    write_table(tmp_path / "all" / "data" / "validation-00000-of-00001.parquet",
                [mmmu_row(id=f"validation_{place}_1") for place in ("Art", "Biology")])  # fmt: skip
    subjects, whole = (load_suite("mmmu", data=tmp_path / name) for name in ("subjects", "all"))
    assert essence(subjects) == essence(whole) and subjects.sha256 == whole.sha256


def test_another_split_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """MMMU has dev, validation and test; who has fetched dev alone has no validation."""
    write_table(tmp_path / "Art" / "dev-00000-of-00001.parquet", [mmmu_row()])
    write_table(tmp_path / "Art" / "test-00000-of-00001.parquet", [mmmu_row()])
    with pytest.raises(UsageError, match="no split of suite 'mmmu' under .* looked for validation: the parquet files"):
        load_suite("mmmu", data=tmp_path)


def test_scienceqa_without_ids_says_so_in_the_ids(tmp_path: Path) -> None:
    """lmms-lab/ScienceQA has no problem ids; the rows' numbers are none, and do not look like any."""
    MAKE["scienceqa-img"](tmp_path / "official")
    rows = [{k: v for k, v in row.items() if k != "pid"} for row in as_tables.scienceqa(tmp_path / "official")]
    write_table(tmp_path / "hub" / "ScienceQA-IMG" / "test-00000-of-00001.parquet", rows)
    assert [s.sample_id for s in load_suite("scienceqa-img", data=tmp_path / "hub").samples] == ["row-0", "row-1"]


def test_without_pyarrow_it_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mmmu(tmp_path, mmmu_row())
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"need pyarrow: pip install 'fastvlm-bench\[parquet\]'"):
        load_suite("mmmu", data=tmp_path)


def test_an_arrow_folder_as_save_to_disk_leaves_it(data: Path, tmp_path: Path) -> None:
    """`DatasetDict.save_to_disk` has a folder for each split, `Dataset.save_to_disk` none; both are arrow streams."""
    table = pyarrow.Table.from_pylist(as_tables.vqa()(data))
    for folder, name in (("dict", "validation/data-00000-of-00001.arrow"), ("one", "data-00000-of-00001.arrow")):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True)
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
        (path.parent / "state.json").write_text("{}")
    official = load_suite("vqav2", split="val2014", data=data)
    for folder in ("dict", "one"):
        found = load_suite("vqav2", split="val2014", data=tmp_path / folder)
        assert essence(found) == essence(official) and pixels(found) == pixels(official)
