"""`score`: predictions in the official format, any fault named; and the files that `run --predictions-out` writes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics.ptb_tokenizer import VERSION
from fastvlm_bench.scoring.score import score_file, write_predictions

VECTORS = json.loads((Path(__file__).parents[1] / "metrics" / "vectors.json").read_text(encoding="utf-8"))
ITEMS = VECTORS["captions"]["items"]


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def coco(tmp_path: Path) -> SimpleNamespace:
    """The twelve images of the vectors as COCO's files."""
    annotations = {
        "images": [{"id": item["id"], "file_name": f"{item['id']}.jpg"} for item in ITEMS],
        "annotations": [{"image_id": item["id"], "caption": text} for item in ITEMS for text in item["references"]],
    }
    rows = [{"image_id": item["id"], "caption": item["hypothesis"]} for item in ITEMS]
    return SimpleNamespace(annotations=write(tmp_path / "captions_val2014.json", annotations), rows=rows,
                           predictions=write(tmp_path / "results.json", rows), folder=tmp_path)  # fmt: skip


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["score", *map(str, arguments)], catch_exceptions=False)


def test_json_is_one_object_at_full_precision_and_equals_the_official_scorer(coco: SimpleNamespace) -> None:
    arguments = ("--suite", "coco-caption", "--annotations", coco.annotations, "--predictions", coco.predictions)
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found, official = json.loads(result.stdout), VECTORS["captions"]["all_twelve"]["corpus"]
    assert (found["suite"], found["n"], found["cider_df"], found["tokenizer"]) == ("coco-caption", 12, "full", VERSION)
    names = {"bleu1": "Bleu_1", "bleu2": "Bleu_2", "bleu3": "Bleu_3", "bleu4": "Bleu_4", "rouge_l": "ROUGE_L",
             "cider_d": "CIDEr"}  # fmt: skip
    for name in ("meteor", "spice"):  # never an approximation: null, and why
        assert found["metrics"].pop(name) is None and "needs --java" in found["reasons"][name]
    assert found["metrics"] == {ours: pytest.approx(official[theirs], abs=1e-9) for ours, theirs in names.items()}
    shuffled = write(coco.folder / "shuffled.json", coco.rows[::-1])
    again = score_file("coco-caption", coco.annotations, shuffled).values
    assert again == {**found["metrics"], "meteor": None, "spice": None}
    table = call(*arguments)
    assert "n = 12" in table.stdout and f"{official['CIDEr']:.4f}" in table.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-2], r"2 of the 12 samples of .* \(image_id 11, 12\); .*--allow-missing"),
        (lambda rows: [*rows, rows[0]], r"results.json: \[12\].image_id is 1, a duplicate id: \[0\] has it too"),
        (
            lambda rows: [*rows, {"image_id": 99, "caption": "x"}],
            r"\[12\].image_id is 99, which .*val2014.json does not",
        ),
        (lambda rows: [{"image_id": 1}], r"\[0\] has no 'caption'"),
        (lambda rows: [{"image_id": 1, "caption": None}], r"\[0\].caption is null, not a string"),
        (lambda rows: {"a": 1}, "holds no list"),
        (lambda rows: [3], r"\[0\] is a whole number, not an object"),
    ],
)
def test_faulty_predictions_are_named(coco: SimpleNamespace, change: Any, message: str) -> None:
    bad = write(coco.folder / "results.json", change(coco.rows))
    with pytest.raises(UsageError, match=message):
        score_file("coco-caption", coco.annotations, bad)
    result = call("--suite", "coco-caption", "--annotations", coco.annotations, "--predictions", bad, "--json")
    assert result.exit_code == 2 and result.stdout == ""


def test_missing_predictions_may_count_as_empty(coco: SimpleNamespace) -> None:
    part = write(coco.folder / "part.json", coco.rows[:-2])
    empty = write(coco.folder / "empty.json", [*coco.rows[:-2], *({**row, "caption": ""} for row in coco.rows[-2:])])
    found = score_file("coco-caption", coco.annotations, part, allow_missing=True)
    assert found == score_file("coco-caption", coco.annotations, empty) and found.n == 12


def test_files_that_are_not_there_or_not_json(coco: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="none.json: cannot be read"):
        score_file("coco-caption", coco.annotations, coco.folder / "none.json")
    (coco.folder / "bad.json").write_text("[{", encoding="utf-8")
    with pytest.raises(UsageError, match="bad.json: not JSON"):
        score_file("coco-caption", coco.folder / "bad.json", coco.predictions)


def test_one_image_has_no_cider(coco: SimpleNamespace) -> None:
    one = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a red dog runs"}]}
    found = score_file("coco-caption", write(coco.folder / "one.json", one),
                       write(coco.folder / "p.json", [{"image_id": 1, "caption": "a red dog runs"}]))  # fmt: skip
    assert found.values["cider_d"] is None and "one image" in found.reasons["cider_d"]
    assert found.values["bleu4"] == pytest.approx(1.0)


def test_vqa_without_the_question_file_and_in_each_variant(tmp_path: Path) -> None:
    items = VECTORS["vqa_accuracy"]["items"]
    rows = [
        {"question_id": 100 + i, "image_id": 1, "answers": [{"answer": answer} for answer in item["answers"]]}
        for i, item in enumerate(items)
    ]
    given = [{"question_id": 100 + i, "answer": item["prediction"]} for i, item in enumerate(items)]
    annotations = write(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": rows})
    predictions = write(tmp_path / "p.json", given)
    for variant, column in (("official", "official_vqa"), ("m4c", "textvqa_m4c")):
        result = call("--suite", "vqav2", "--annotations", annotations, "--predictions", predictions, "--json",
                      "--variant", f"vqa_accuracy={variant}")  # fmt: skip
        found = json.loads(result.stdout)
        mean = sum(item[column] for item in items) / len(items)
        assert found["metrics"]["vqa_accuracy"] == pytest.approx(mean, abs=1e-9)
        assert found["variants"] == {"vqa_accuracy": variant} and found["n"] == len(items)
    with pytest.raises(UsageError, match="no metric 'vqa_acuracy'; did you mean 'vqa_accuracy'"):
        score_file("vqav2", annotations, predictions, variants={"vqa_acuracy": "m4c"})
    rows[0]["answers"].pop()
    with pytest.raises(UsageError, match="has 9 answers, not 10"):
        score_file("vqav2", write(annotations, {"annotations": rows}), predictions)


def test_a_run_writes_one_official_file_a_suite_and_method(fake: SimpleNamespace, tmp_path: Path) -> None:
    def change(line: dict[str, Any]) -> dict[str, Any]:
        return fake.failed(line) if (line["method"], line["sample_id"]) == ("fastvlm:gamma=4", "1") else line

    suites = [fake.suite(n=3), fake.suite("vqav2", n=2)]
    for suite in suites:
        for index, sample in enumerate(suite["samples"]):
            sample["sample_id"] = f"{index}" if index < 2 else "007"
    run = fake.run(suites=suites, labels=("standard", "fastvlm:gamma=4"), repeats=2, change=change)
    paths = write_predictions(run, tmp_path / "out.json")
    assert [path.name for path in paths] == [
        "out-coco-caption-standard.json", "out-coco-caption-fastvlm_gamma=4.json",
        "out-vqav2-standard.json", "out-vqav2-fastvlm_gamma=4.json",
    ]  # fmt: skip
    caption, _, answers, part = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    texts = {line["sample_id"]: line["text"] for line in run.lines
             if (line["suite"], line["method"]) == ("coco-caption", "standard")}  # fmt: skip
    assert caption == [{"image_id": i, "caption": texts[str(i)]} for i in (0, 1, "007")]
    assert [row["question_id"] for row in answers] == [0, 1] and [row["question_id"] for row in part] == [0]
