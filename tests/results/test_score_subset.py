"""`score --subset`: only the samples that have a prediction are scored, and every number says of how many it is."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.scoring.score import score_file

DATA = Path(__file__).parents[2] / "suites" / "data"
CAPTIONS = DATA / "coco-caption" / "annotations" / "captions_embedded.json"
SPLITS = {
    "nocaps": (DATA / "nocaps" / "nocaps_embedded_captions.json", "images", "id", "domain", "caption", "image_id"),
    "vqav2": (DATA / "vqav2" / "v2_embedded_annotations.json", "annotations", "question_id", "answer_type", "answer",
              "question_id"),
}  # fmt: skip
"""Suites with groups: the file, where its samples are, the keys of an id and of a group; the keys of a result."""


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def captions(path: Path, ids: range) -> Path:
    return write(path, [{"image_id": number, "caption": f"a dog and {number} cats"} for number in ids])


def test_the_scores_are_those_of_the_samples_alone(tmp_path: Path) -> None:
    content = json.loads(CAPTIONS.read_text())
    ids = [image["id"] for image in content["images"]][:8]
    alone = {"images": [i for i in content["images"] if i["id"] in ids],
             "annotations": [a for a in content["annotations"] if a["image_id"] in ids]}  # fmt: skip
    predictions = write(tmp_path / "p.json", [{"image_id": i, "caption": f"a dog and {i} cats"} for i in ids])
    some = score_file("coco-caption", CAPTIONS, predictions, subset=True)
    whole = score_file("coco-caption", write(tmp_path / "captions_val2014.json", alone), predictions)
    assert some.n == whole.n == 8
    for metric in ("bleu4", "rouge_l"):
        assert some.values[metric] == whole.values[metric]
    assert some.values["cider_d"] != whole.values["cider_d"] and some.how["cider_df"] == "full"
    assert some.notes == (f"8 of the 200 samples of {CAPTIONS} have a prediction; scores are of these alone",)


@pytest.mark.parametrize("suite", SPLITS)
def test_a_group_without_a_prediction_has_no_score(tmp_path: Path, suite: str) -> None:
    path, key, identity, group, text, named = SPLITS[suite]
    samples = json.loads(path.read_text())[key]
    only = samples[0][group]
    others = {sample[group] for sample in samples} - {only}
    rows = [{named: sample[identity], text: "yes"} for sample in samples if sample[group] == only][:5]
    found = score_file(suite, path, write(tmp_path / "p.json", rows), subset=True)
    first = next(iter(found.values))
    assert found.values[f"{first}[{only}]"] is not None
    assert len(others) > 1
    for other in others:
        assert found.values[f"{first}[{other}]"] is None
        assert found.reasons[f"{first}[{other}]"] == "no sample of it has a prediction"


def test_with_a_reference_only_samples_of_both_files_count(tmp_path: Path) -> None:
    ids = [image["id"] for image in json.loads(CAPTIONS.read_text())["images"]][:9]
    first, second = (
        write(tmp_path / name, [{"image_id": i, "caption": f"a dog {i}"} for i in own])
        for name, own in (("a.json", ids[:6]), ("b.json", ids[2:]))
    )
    found = score_file("coco-caption", CAPTIONS, first, reference_file=second, subset=True)
    assert found.n == 4 and {delta.verdict for delta in found.deltas} == {"identical"}
    assert f"4 of the 200 samples of {CAPTIONS} have a prediction in both {first} and {second}" in found.notes[0]


def test_what_cannot_be_scored_is_one_line(tmp_path: Path) -> None:
    def said(*more: str, ids: range = range(1, 4)) -> str:
        done = CliRunner().invoke(app, ["score", "-s", "coco-caption", "--annotations", str(CAPTIONS), "--subset",
                                        "--predictions", str(captions(tmp_path / "p.json", ids)), *more])  # fmt: skip
        assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
        return done.stderr

    assert "no sample of the 200 of" in said(ids=range(0))
    assert "[0].image_id is 99999999, which" in said(ids=range(99999999, 100000000))
    assert "--subset and --allow-missing exclude each other" in said("--allow-missing")
