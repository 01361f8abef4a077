"""Every suite and split from files in the official layout: the samples, their order, their hash."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.suite import Suite, check_images, load_suite

CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
VQA_TAIL = "\nAnswer the question using a single word or phrase."


def ids(suite: Suite) -> list[str]:
    return [sample.sample_id for sample in suite.samples]


@pytest.mark.parametrize(("name", "split"), [("coco-caption", "val2014"), ("coco-caption", "val2017"),
                                             ("describe", "val2014"), ("describe", "val2017")])  # fmt: skip
def test_coco_captions(data: Path, name: str, split: str) -> None:
    suite = load_suite(name, split=split, data=data)
    assert (suite.name, suite.split, suite.kind, suite.source) == (name, split, "caption", str(data))
    assert ids(suite) == ["42", "73", "139"]
    first = suite.samples[0]
    prefix = "COCO_val2014_" if split == "val2014" else ""
    assert first.image_path == data / split / f"{prefix}000000000042.jpg"
    assert first.references == ("Caption 1 of 42.\n", "Caption 2 of 42.\n")
    assert first.prompt == suite.prompt
    assert bool(suite.note) == (name == "describe")
    check_images(suite)


def test_prompts_and_lengths_are_those_of_lmms_eval(data: Path) -> None:
    for split in ("val2014", "val2017", "karpathy-test"):
        suite = load_suite("coco-caption", split=split, data=data)
        assert (suite.prompt, suite.max_new_tokens) == (CAPTION_PROMPT, 64)
        assert suite.metrics == ("bleu4", "rouge_l", "cider_d")
    suite = load_suite("vqav2", split="val2014", data=data)
    assert (suite.prompt, suite.max_new_tokens) == ("{question}" + VQA_TAIL, 16)
    assert load_suite("describe", split="val2017", data=data).max_new_tokens == 160


def test_karpathy_test_takes_only_its_subset(data: Path) -> None:
    suite = load_suite("coco-caption", split="karpathy-test", data=data)
    assert ids(suite) == ["42", "139"]
    assert suite.samples[1].image_path == data / "val2014" / "COCO_val2014_000000000139.jpg"
    assert suite.samples[1].references == ("Raw 0 of 139.", "Raw 1 of 139.")


def test_vqav2_pairs_questions_with_answers_by_id(data: Path) -> None:
    suite = load_suite("vqav2", data=data)
    assert ids(suite) == ["42000", "42001", "73000", "73001", "139000", "139001"]
    second = suite.samples[1]
    assert second.prompt == "What is 1 {here}?" + VQA_TAIL  # braces in a question are left alone
    assert second.image_id == "42" and second.image_path.name == "COCO_val2014_000000000042.jpg"
    assert second.references == tuple(f"a{n}" for n in range(1, 11))


def test_the_embedded_split_is_read_by_the_same_reader(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(__file__).parents[2] / "suites"
    suites = tmp_path / "suites"
    suites.mkdir()
    shutil.copy(source / "coco-caption.toml", suites)
    content = (data / "annotations" / "captions_val2017.json").read_bytes()
    embedded = suites / "data" / "coco-caption"
    (embedded / "annotations").mkdir(parents=True)
    (embedded / "annotations" / "captions_embedded.json").write_bytes(content)
    shutil.copytree(data / "val2017", embedded / "images")
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(suites))
    suite, real = load_suite("coco-caption"), load_suite("coco-caption", split="val2017", data=data)
    assert (suite.split, suite.source) == ("embedded", "embedded (rendered scenes)")
    ours, theirs = ([replace(s, image_path=Path()) for s in each.samples] for each in (suite, real))
    assert ours == theirs
    assert suite.sha256 == real.sha256
    assert suite.licence == "Apache-2.0" != real.licence


@pytest.mark.parametrize("name", ["coco-caption", "describe", "vqav2"])
def test_the_data_in_the_checkout_is_whole(name: str) -> None:
    suite = load_suite(name)
    assert suite.split == "embedded" and len(suite.samples) >= 50
    check_images(suite)


def test_limit_takes_the_first_in_file_order(data: Path) -> None:
    assert ids(load_suite("coco-caption", split="val2014", data=data, limit=2)) == ["42", "73"]
    assert len(load_suite("coco-caption", split="val2014", data=data, limit=99).samples) == 3
    (data / "val2014" / "COCO_val2014_000000000139.jpg").unlink()  # nothing beyond the limit is needed
    load_suite("coco-caption", split="val2014", data=data, limit=2)
    with pytest.raises(UsageError, match="limit is 0; it must be at least 1"):
        load_suite("coco-caption", limit=0)


# ------------------------------------------------------------------------------------------ where files may lie


def test_annotations_directly_in_the_folder_and_images_in_images(data: Path) -> None:
    before = load_suite("coco-caption", split="val2014", data=data)
    shutil.move(data / "annotations" / "captions_val2014.json", data)
    (data / "images").mkdir()
    shutil.move(data / "val2014", data / "images")
    after = load_suite("coco-caption", split="val2014", data=data)
    assert after.samples[0].image_path == data / "images" / "val2014" / "COCO_val2014_000000000042.jpg"
    assert after.sha256 == before.sha256  # the layout is not the data


def test_annotations_of_vqa_in_the_annotations_folder(data: Path) -> None:
    for path in data.glob("v2_*.json"):
        shutil.move(path, data / "annotations")
    assert len(load_suite("vqav2", data=data).samples) == 6


def test_an_image_folder_may_be_a_link(data: Path, tmp_path: Path) -> None:
    shutil.move(data / "val2017", tmp_path / "elsewhere")
    (data / "val2017").symlink_to(tmp_path / "elsewhere")
    assert len(load_suite("coco-caption", split="val2017", data=data).samples) == 3


def test_data_without_split_takes_the_first_whose_files_are_there(data: Path) -> None:
    assert load_suite("coco-caption", data=data).split == "val2014"
    shutil.rmtree(data / "val2014")  # annotations alone are not enough where another split is whole
    assert load_suite("coco-caption", data=data).split == "val2017"
    (data / "annotations" / "captions_val2014.json").unlink()
    assert load_suite("coco-caption", data=str(data)).split == "val2017"


def test_the_data_variable_stands_for_the_option(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVLM_BENCH_DATA", str(data))
    assert load_suite("coco-caption").source == str(data)
    assert load_suite("coco-caption", split="embedded").split == "embedded"
    with pytest.raises(UsageError, match="nowhere does not exist"):
        load_suite("coco-caption", data=tmp_path / "nowhere")
    monkeypatch.setenv("FASTVLM_BENCH_DATA", "")
    assert load_suite("coco-caption").split == "embedded"


# ------------------------------------------------------------------------------------------ the hash


def test_the_hash_tells_changed_data(data: Path) -> None:
    def digest(limit: int | None = None) -> str:
        return load_suite("coco-caption", split="val2014", data=data, limit=limit).sha256

    before = digest()
    assert digest() == before and len(before) == 64
    assert digest(limit=2) != before
    annotations = data / "annotations" / "captions_val2014.json"
    original = annotations.read_bytes()
    annotations.write_bytes(original + b"\n")
    assert digest() != before
    annotations.write_bytes(original)
    image = data / "val2014" / "COCO_val2014_000000000042.jpg"
    image.write_bytes(image.read_bytes() + b"\0")
    assert digest() != before


def test_the_hash_covers_both_files_of_vqa(data: Path) -> None:
    before = load_suite("vqav2", data=data).sha256
    for name in ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"):
        original = (data / name).read_bytes()
        (data / name).write_bytes(original + b" ")
        assert load_suite("vqav2", data=data).sha256 != before
        (data / name).write_bytes(original)
    assert load_suite("vqav2", data=data).sha256 == before


# ------------------------------------------------------------------------------------------ odd but legal


def test_a_byte_order_mark_is_tolerated(data: Path) -> None:
    path = data / "annotations" / "captions_val2014.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_suite("coco-caption", split="val2014", data=data).samples) == 3


def test_odd_characters_in_captions_stay(data: Path) -> None:
    path = data / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    odd = "a\rb\u2028c\vd\fe\0f\ud800g"
    content["annotations"][0]["caption"] = odd
    path.write_text(json.dumps(content))
    assert load_suite("coco-caption", split="val2014", data=data).samples[2].references[0] == odd


def test_text_ids_keep_their_zeros(data: Path) -> None:
    path = data / "annotations" / "captions_val2014.json"
    content = json.loads(path.read_text())
    content["images"][0]["id"] = "007"
    for row in content["annotations"]:
        row["image_id"] = "007" if row["image_id"] == 42 else row["image_id"]
    path.write_text(json.dumps(content))
    assert ids(load_suite("coco-caption", split="val2014", data=data)) == ["007", "73", "139"]
