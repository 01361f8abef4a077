"""Each suite's own results format: written by a run, read by `score`, one fault a message; and VisDial's ranks."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from suites.conftest import write
from suites.official import MAKE
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.errors import UsageError
from fastvlm_bench.scoring.score import read_references, score_file, write_predictions
from fastvlm_bench.suites import results_formats
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.suite import load_suite

FILES = {
    "coco-caption": ["coco_karpathy_test.json"], "nocaps": ["nocaps_val_4500_captions.json"],
    "flickr30k": ["dataset_flickr30k.json"], "okvqa": ["mscoco_val2014_annotations.json"],
    "gqa": ["testdev_balanced_questions.json"], "textvqa": ["TextVQA_0.5.1_val.json"],
    "visdial-gen": ["visdial_1.0_val.json"], "scienceqa-img": ["problems.json", "pid_splits.json"],
    "chartqa": ["ChartQA Dataset/test/test_human.json", "ChartQA Dataset/test/test_augmented.json"],
    "docvqa": ["val_v1.0.json"],
    "pope": ["coco_pope_random.json", "coco_pope_popular.json", "coco_pope_adversarial.json"],
}  # fmt: skip
FIRST: dict[str, Any] = {
    "coco-caption": {"image_id": 391895, "caption": "t0"}, "nocaps": {"image_id": 0, "caption": "t0"},
    "flickr30k": {"image_id": 10002456, "caption": "t0"}, "okvqa": {"question_id": 42000, "answer": "t0"},
    "gqa": {"questionId": "201307251", "prediction": "t0"}, "textvqa": {"question_id": 34602, "answer": "t0"},
    "visdial-gen": {"question_id": "185565-1", "answer": "t0"}, "scienceqa-img": {"outputs": {"4": "t0", "6": "t1"}},
    "chartqa": {"question_id": "test_human/0", "answer": "t0"}, "docvqa": {"questionId": 49153, "answer": "t0"},
    "pope": {"question": "Is there a random 1?", "answer": "t0"}, "mm-vet": {"v1_0": "t0"},
    "llava-bench": {"question_id": 0, "prompt": "Who?", "text": "t0", "answer_id": "0", "model_id": "m",
                    "metadata": {}},
}  # fmt: skip


def rows(name: str, root: Path) -> list[dict[str, Any]]:
    split = "karpathy-test-lavis" if name == "coco-caption" else None
    samples = load_suite(name, data=root, split=split).samples
    return [{"sample_id": s.sample_id, "question": s.question, "text": f"t{i}", "group": s.group}
            for i, s in enumerate(samples)]  # fmt: skip


@pytest.mark.parametrize("name", list(FIRST))
def test_the_suites_own_format_is_written(tmp_path: Path, name: str) -> None:
    MAKE[name](tmp_path)
    content = next(iter(results_formats.encode(read_definition(name).results, rows(name, tmp_path), "m").values()))
    if name in ("pope", "llava-bench"):
        assert json.loads(content.splitlines()[0]) == FIRST[name]
    else:
        found = json.loads(content)
        assert (found[0] if isinstance(found, list) else found) == FIRST[name]


@pytest.mark.parametrize("name", list(FILES))
def test_what_is_written_is_read_and_scored(tmp_path: Path, name: str) -> None:
    MAKE[name](tmp_path)
    definition, given = read_definition(name), rows(name, tmp_path)
    files = results_formats.encode(definition.results, given, "m")
    assert len(files) == (3 if name == "pope" else 1)  # POPE's evaluation reads one for each question file
    path = tmp_path / "p.json"
    path.write_bytes(b"".join(files.values()))
    annotations = [tmp_path / file for file in FILES[name]]
    entries = read_references(definition, annotations)
    texts = results_formats.read(path, definition.results, entries, "x", False)
    assert (texts[::-1] if name == "okvqa" else texts) == [f"t{i}" for i in range(len(texts))]  # its answers' order
    found = score_file(name, annotations, path)
    assert found.n == len(given) and set(definition.metrics) <= set(found.values)
    if name not in ("coco-caption", "nocaps", "flickr30k", "scienceqa-img", "pope"):  # VQA's keys are read too
        generic = [{"question_id": row["sample_id"], "answer": row["text"]} for row in given]
        write(path, generic)
        assert score_file(name, annotations, path) == found


def test_groups_are_scored_apart(tmp_path: Path) -> None:
    MAKE["chartqa"](tmp_path)
    answers = [{"question_id": f"test_{half}/{n}", "answer": "14"} for half in ("human", "augmented") for n in (0, 1)]
    write(tmp_path / "p.json", answers)
    arguments = ["score", "-s", "chartqa", "--predictions", str(tmp_path / "p.json"), "--json"]
    for file in FILES["chartqa"]:
        arguments += ["--annotations", str(tmp_path / file)]
    found = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)["metrics"]
    assert found == {"relaxed_accuracy": 0.5, "relaxed_accuracy[test_human]": 1.0,
                     "relaxed_accuracy[test_augmented]": 0.0}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("gqa", [{"questionId": "201307251"}], "[0] has no 'prediction'"),
    ("gqa", [{"questionId": "9", "prediction": "no"}], "[0].questionId is 9, which"),
    ("gqa", {"a": 1}, "holds no list; the results format is"),
    ("scienceqa-img", {"outputs": {"4": 1}}, "the file.4 is a whole number, not a string"),
    ("scienceqa-img", {"outputs": {"4": "A"}}, "1 of the 2 samples"),
    ("scienceqa-img", {"outputs": {"4": "A", "77": "A"}}, "['77'] is 77, which"),
    ("scienceqa-img", '{"outputs": {"4": "A", "6": "A", "4": "B"}}', "['4'] is a duplicate id"),
    ("pope", [{"question": "Is there a random 1?", "answer": "yes"}], "has 1 answers, but"),
    ("pope", [{"question": "Who?", "answer": "yes"}] * 6, "line 1.question is 'Who?', but"),
    ("docvqa", [{"questionId": 49153, "answer": None}], "[0].answer is null, not a string"),
])  # fmt: skip
def test_faulty_results_are_named(tmp_path: Path, name: str, content: Any, problem: str) -> None:
    MAKE[name](tmp_path)
    (tmp_path / "p.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError) as caught:
        score_file(name, [tmp_path / file for file in FILES[name]], tmp_path / "p.json")
    assert problem in str(caught.value) and "p.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_needed_too_is_named(tmp_path: Path) -> None:
    MAKE["scienceqa-img"](tmp_path)
    with pytest.raises(UsageError, match="also needs pid_splits.json; repeat --annotations for it"):
        score_file("scienceqa-img", tmp_path / "problems.json", tmp_path / "p.json")


def test_a_suite_without_metrics_is_not_scored(tmp_path: Path) -> None:
    MAKE["mm-vet"](tmp_path)
    with pytest.raises(UsageError, match="suite 'mm-vet' has no metrics here"):
        score_file("mm-vet", tmp_path / "mm-vet.json", tmp_path / "p.json")


# ------------------------------------------------------------------------------------------ differences


def test_the_difference_of_two_files_is_paired(tmp_path: Path) -> None:
    MAKE["chartqa"](tmp_path)
    human = tmp_path / FILES["chartqa"][0]
    write(human, [{"imgname": f"{n}.png", "query": "How many?", "label": "14"} for n in range(200)])
    for file, right in (("a.json", 200), ("b.json", 192)):
        write(tmp_path / file, [{"question_id": f"test_human/{n}", "answer": "14" if n < right else "no"}
                                for n in range(200)])  # fmt: skip
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    same = CliRunner().invoke(app, ["score", "-s", "chartqa", "--annotations", str(human), "--predictions", str(a),
                                    "--reference", str(a)])  # fmt: skip
    assert "identical outputs 200/200" in same.stdout
    worse = score_file("chartqa", human, b, reference_file=a).as_dict()["deltas"]["relaxed_accuracy"]
    assert worse["value"] == pytest.approx(-0.04) and worse["low"] < -0.04 < worse["high"] < 0
    assert (worse["verdict"], worse["changed"]) == ("worse", 8)
    assert worse["difference_p"] == pytest.approx(worse["mcnemar_p"], abs=0.004) and worse["mcnemar_p"] == 2 / 2**8
    assert score_file("chartqa", human, b, reference_file=a, margin=10).deltas[0].verdict == "equivalent"
    assert score_file("chartqa", human, a, reference_file=b).deltas[0].verdict == "better"
    with pytest.raises(UsageError, match="--margin is 0"):
        score_file("chartqa", human, b, reference_file=a, margin=0)


# ------------------------------------------------------------------------------------------ ranks


@pytest.fixture
def visdial(tmp_path: Path) -> SimpleNamespace:
    """One dialog of ten rounds; the answer of round n is option n − 1, and round 1 has relevances."""
    MAKE["visdial-gen"](tmp_path)
    relevance = [0.0] * 100
    relevance[0], relevance[1] = 1.0, 0.5
    dense = tmp_path / "visdial_1.0_val_dense_annotations.json"
    write(dense, [{"image_id": 185565, "round_id": 1, "gt_relevance": relevance}])
    ranks = [{"image_id": 185565, "round_id": n, "ranks": list(range(1, 101))} for n in range(1, 11)]
    write(tmp_path / "ranks.json", ranks)
    return SimpleNamespace(files=[tmp_path / "visdial_1.0_val.json", dense], ranks=ranks, path=tmp_path / "ranks.json")


def test_ranks_are_scored(visdial: SimpleNamespace) -> None:
    values = score_file("visdial", visdial.files, visdial.path).values
    assert values["visdial_ranking"] == pytest.approx(sum(1 / n for n in range(1, 11)) / 10)
    assert (values["r@1"], values["r@5"], values["r@10"], values["mean_rank"]) == (0.1, 0.5, 1.0, 5.5)
    assert (values["ndcg"], values["ndcg_samples"]) == (1.0, 1.0)
    alone = score_file("visdial", visdial.files[0], visdial.path).values
    assert "ndcg" not in alone and alone["mean_rank"] == 5.5


@pytest.mark.parametrize(("change", "problem"), [
    (lambda r: r[3].update(ranks=[1] * 100), r"\[3\].ranks must be the whole numbers 1 .. 100, each once"),
    (lambda r: r[3].update(round_id=11), r"\[3\] is 185565-11, which"),
    (lambda r: r.pop(), "1 of the 10 samples"),
    (lambda r: r[0].pop("ranks"), r"\[0\] has no 'ranks'"),
])  # fmt: skip
def test_faulty_ranks_are_named(visdial: SimpleNamespace, change: Any, problem: str) -> None:
    change(visdial.ranks)
    write(visdial.path, visdial.ranks)
    with pytest.raises(UsageError, match=problem):
        score_file("visdial", visdial.files, visdial.path)


@pytest.mark.parametrize(("row", "problem"), [
    ({"image_id": 185565, "round_id": 1, "gt_relevance": [1.0]}, "has 1 numbers for the 100 options"),
    ({"image_id": 185565, "round_id": 12, "gt_relevance": [1.0]}, "is image-round 185565-12, which"),
    ({"image_id": 185565, "round_id": 1, "gt_relevance": ["x"]}, "must be a list of finite numbers"),
    ({"image_id": 185565, "round_id": 1, "gt_relevance": [math.nan] * 100}, "must be a list of finite numbers"),
    ({"image_id": 185565, "round_id": 1, "gt_relevance": [-1.0] * 100}, "numbers of at least 0"),
])  # fmt: skip
def test_faulty_relevances_are_named(visdial: SimpleNamespace, row: dict[str, Any], problem: str) -> None:
    write(visdial.files[1], [row])
    with pytest.raises(UsageError, match=problem):
        score_file("visdial", visdial.files, visdial.path)


def test_what_has_numbers_for_references_is_not_trained_on(tmp_path: Path) -> None:
    MAKE["visdial-gen"](tmp_path)
    with pytest.raises(UsageError, match="suite 'visdial' ranks given answers.*use visdial-gen"):
        load_suite("visdial", data=tmp_path)
    sample = load_suite("visdial", data=tmp_path, ranking=True).samples[1]
    assert sample.options[:3] == ("yes 0", "yes 1", "yes 2") and len(sample.options) == 100
    assert sample.references == ("1",)  # the round's own answer is its second option


def test_ranks_made_already_have_no_variant(visdial: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="--variant is for `run`"):
        score_file("visdial", visdial.files, visdial.path, variants={"visdial_ranking": "mean"})


@pytest.mark.parametrize(("index", "problem"), [
    (10, r"answer_options\[2\] is 10, but data.answers has 10 texts"), ("x", r"answer_options\[2\] is 'x', but"),
])  # fmt: skip
def test_an_option_that_is_not_there_is_named(visdial: SimpleNamespace, index: Any, problem: str) -> None:
    content = json.loads(visdial.files[0].read_text())
    content["data"]["dialogs"][0]["dialog"][4]["answer_options"][2] = index
    write(visdial.files[0], content)
    with pytest.raises(UsageError, match=r"data.dialogs\[0\].dialog\[4\]." + problem):
        score_file("visdial", visdial.files, visdial.path)


def test_a_run_of_pope_writes_a_file_for_each_of_popes(fake: SimpleNamespace, tmp_path: Path) -> None:
    suite = fake.suite("pope", n=4, metrics=["pope"], results="pope")
    for index, sample in enumerate(suite["samples"]):
        sample |= {"group": ("coco_pope_random", "coco_pope_popular")[index % 2], "references": ["yes"],
                   "question": f"Q{index}?"}  # fmt: skip
    paths = write_predictions(fake.run(suites=[suite], labels=("standard",)), tmp_path / "o.json")
    assert [path.name for path in paths] == [f"o-pope-standard-coco_pope_{kind}.json" for kind in ("random", "popular")]
    assert [json.loads(line)["question"] for line in paths[1].read_text().splitlines()] == ["Q1?", "Q3?"]


@pytest.mark.parametrize(("mark", "name"), [("\r", "CR"), ("\u2028", "U+2028"), ("\v", "VT"), ("\x85", "NEL")])
def test_an_odd_line_break_is_told_with_file_key_and_index(tmp_path: Path, mark: str, name: str) -> None:
    MAKE["nocaps"](tmp_path)
    rows = [{"image_id": n, "caption": f"a{mark if n == 1 else ' '}cat"} for n in range(3)]
    write(tmp_path / "p.json", rows)
    arguments = ["score", "-s", "nocaps", "--annotations", str(tmp_path / FILES["nocaps"][0]), "--predictions",
                 str(tmp_path / "p.json"), "--json"]  # fmt: skip
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert (
        result.exit_code == 0 and f"p.json: [1].caption (id 1) holds {name}; it is scored as a space" in result.stderr
    )
    write(tmp_path / "p.json", [{**row, "caption": "a cat"} for row in rows])
    plain = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    odd = json.loads(result.stdout)
    assert odd["metrics"] == plain["metrics"] and len(odd.pop("notes")) == 1 and odd == plain
