"""The table of traps in docs/suites.md: every test that it names is there; and those traps that have no other place."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from suites.official import MAKE

from fastvlm_bench.metrics import load
from fastvlm_bench.suites.definition import describe_suites, read_definition
from fastvlm_bench.suites.suite import load_suite

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "docs" / "suites.md").read_text(encoding="utf-8"))


def test_there_are_traps() -> None:
    assert len(NAMED) >= 45 and len(set(NAMED)) == len(NAMED)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_trap_has_its_test(file: str, name: str) -> None:
    assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_generated_answers_are_never_ranked() -> None:
    generated, ranked = read_definition("visdial-gen"), read_definition("visdial")
    assert "visdial_ranking" not in generated.metrics and ranked.metrics == ("visdial_ranking",)
    assert (generated.kind, ranked.kind) == ("vqa", "ranking")
    for suite in describe_suites():
        assert ("visdial_ranking" in suite.metrics) == (suite.kind == "ranking"), suite.name


def test_suites_that_a_judge_scores_have_no_metric_here() -> None:
    for name in ("mm-vet", "llava-bench", "coco-caption-long", "vqav2-long"):
        assert read_definition(name).metrics == ()


def test_okvqa_is_scored_by_its_stemmed_answers(tmp_path: Path) -> None:
    MAKE["okvqa"](tmp_path)
    rows = json.loads((tmp_path / "mscoco_val2014_annotations.json").read_text())["annotations"]
    assert rows[0]["answers"][0]["raw_answer"] != rows[0]["answers"][0]["answer"]
    sample = next(s for s in load_suite("okvqa", data=tmp_path).samples if s.sample_id == str(rows[0]["question_id"]))
    assert sample.references == tuple(answer["answer"] for answer in rows[0]["answers"])


def test_textvqa_validates_on_train_images_and_capitalises_as_lmms_eval(tmp_path: Path) -> None:
    MAKE["textvqa"](tmp_path)
    (sample,) = load_suite("textvqa", data=tmp_path).samples
    assert sample.image_path.parent.name == "train_images"
    assert (sample.question, sample.prompt.split("\n")[0]) == ("what Brand is it?", "What brand is it?")


def test_scienceqa_img_leaves_out_the_questions_without_an_image(tmp_path: Path) -> None:
    MAKE["scienceqa-img"](tmp_path)
    assert [s.sample_id for s in load_suite("scienceqa-img", data=tmp_path).samples] == ["4", "6"]


def test_docvqa_under_its_newer_name(tmp_path: Path) -> None:
    MAKE["docvqa"](tmp_path)
    old = load_suite("docvqa", data=tmp_path)
    (tmp_path / "val_v1.0.json").rename(tmp_path / "val_v1.0_withQT.json")
    assert load_suite("docvqa", data=tmp_path) == replace(old, sha256=old.sha256)


def test_karpathys_test_split_has_a_prompt_of_its_own_in_lmms_eval() -> None:
    suite = read_definition("coco-caption")
    assert suite.prompts["lmms-karpathy"] == "Describe the image briefly." != suite.prompt
    for name in ("karpathy-test", "karpathy-test-lavis"):
        assert "--prompt-set lmms-karpathy" in suite.split(name).note


def test_suites_without_a_length_in_lmms_eval_have_one_here() -> None:
    """OK-VQA and TextVQA set none there: 1024 or 4096 tokens for an answer of one word, by the model's class."""
    assert all(read_definition(name).max_new_tokens == 16 for name in ("okvqa", "textvqa"))


def test_a_line_feed_in_a_coco_caption_is_a_space(data: Path) -> None:
    plain, broken = (load("rouge_l").score(["a cat"], [[text]]).value for text in ("a cat sits", "a\ncat sits\n"))
    assert plain == broken
    assert load_suite("coco-caption", split="val2014", data=data).samples[0].references[0] == "Caption 1 of 42.\n"


def test_one_dialog_alone_is_ranked() -> None:
    """The official code squeezes a batch of one dialog to nothing and raises."""
    found = load("visdial_ranking").score(["2 1 3"], [["1", "0 1 0.5"]])  # of the k = 2 best places: relevances 1, 0
    assert found.value == 1.0 and found.parts["ndcg"] == pytest.approx(1 / (1 + 0.5 / math.log2(3)))


def test_textvqa_is_scored_as_its_own_evaluator_does(tmp_path: Path) -> None:
    MAKE["textvqa"](tmp_path)
    assert load_suite("textvqa", data=tmp_path).variants == {"vqa_accuracy": "m4c"}
    assert load_suite("vqav2", limit=1).variants == {"vqa_accuracy": "normalised"}
