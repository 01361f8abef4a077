"""Groups that the official files make, metric variants of a suite, and what a limit leaves out."""

import json
from pathlib import Path

import pytest
from suites.conftest import write
from suites.official import MAKE, made

from fastvlm_bench.config import RunConfig
from fastvlm_bench.errors import UsageError
from fastvlm_bench.measuring.before_loading import load_suites
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.suite import load_suite


@pytest.mark.parametrize(("name", "groups"), [
    ("okvqa", ["other"] * 6), ("nocaps", ["in-domain", "near-domain", "out-domain"]),
    ("chartqa", ["test_human"] * 2 + ["test_augmented"] * 2), ("gqa", ["", ""]), ("mm-vet", [""]),
    ("pope", ["coco_pope_random"] * 2 + ["coco_pope_popular"] * 2 + ["coco_pope_adversarial"] * 2),
])  # fmt: skip
def test_groups_of_the_official_files(tmp_path: Path, name: str, groups: list[str]) -> None:
    assert [sample.group for sample in made(name, tmp_path).samples] == groups


def test_domains_from_the_image_info_file(tmp_path: Path) -> None:
    """Copies of the captions file lack the domains; the file beside it has them, and may be missing."""
    MAKE["nocaps"](tmp_path)
    path = tmp_path / "nocaps_val_4500_captions.json"
    content = json.loads(path.read_text())
    write(tmp_path / "nocaps_val_image_info.json", {"images": content["images"]})
    for image in content["images"]:
        image.pop("domain")
    write(path, content)
    assert [s.group for s in load_suite("nocaps", data=tmp_path).samples] == ["in-domain", "near-domain", "out-domain"]
    assert [s.sample_id for s in load_suite("nocaps", data=tmp_path, split="val-out").samples] == ["2"]
    (tmp_path / "nocaps_val_image_info.json").unlink()
    assert [s.group for s in load_suite("nocaps", data=tmp_path).samples] == ["", "", ""]


def test_a_limit_keeps_the_references_of_all_images() -> None:
    whole, part = load_suite("coco-caption"), load_suite("coco-caption", limit=3)
    assert part.documents == tuple(("", sample.references) for sample in whole.samples)
    assert (part.document_images, len(part.samples), whole.documents) == (200, 3, ())
    assert load_suite("coco-caption", limit=200).documents == ()
    assert load_suite("vqav2", limit=3).documents == ()  # no metric of it weighs words


def test_a_suite_may_want_a_variant(tmp_path: Path) -> None:
    assert read_definition("scienceqa-img").variants == {"multiple_choice": "scienceqa"}
    assert made("scienceqa-img", tmp_path).variants == {"multiple_choice": "scienceqa"}
    assert load_suite("vqav2", limit=1).variants == {"vqa_accuracy": "normalised"}
    assert load_suite("vqav2", limit=1, variants={"vqa_accuracy": "official"}).variants == {"vqa_accuracy": "official"}
    assert load_suite("describe", limit=1).variants == {}


@pytest.mark.parametrize(("variants", "message"), [
    (("vqa_accuracy=offical",), "unknown variant 'offical' of vqa_accuracy; did you mean 'official'"),
    (("vqa_acuracy=official",), "unknown metric 'vqa_acuracy'; did you mean 'vqa_accuracy'"),
    (("pope=official",), "none of vqav2, coco-caption is scored with pope"),
    (("rouge_l=x",), "metric 'rouge_l' has no variants"),
])  # fmt: skip
def test_variants_that_do_not_exist(variants: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_suites(RunConfig(suites=("vqav2", "coco-caption"), variants=variants, limit=1))


@pytest.mark.parametrize("text", ["vqa_accuracy", "vqa_accuracy=", "=official"])
def test_what_is_no_variant(text: str) -> None:
    with pytest.raises(UsageError, match="give METRIC=VARIANT"):
        RunConfig(variants=(text,))


def test_a_variant_goes_to_the_suites_that_have_the_metric() -> None:
    config = RunConfig(suites=("vqav2", "coco-caption"), variants=("vqa_accuracy=m4c",), limit=1)
    assert [suite.variants for suite in load_suites(config)] == [{"vqa_accuracy": "m4c"}, {}]


def test_a_suite_file_with_an_unknown_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastvlm_bench.suites.catalogue import suites_folder

    text = (suites_folder() / "scienceqa-img.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace('"scienceqa" }', '"mmmuu" }'))
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path))
    with pytest.raises(UsageError, match=r"variants.multiple_choice 'mmmuu': one of mmmu, scienceqa"):
        read_definition("mine")
