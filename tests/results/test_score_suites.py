"""`score` of every suite from the command line: its official results file, by files and by folder, one JSON object."""

import json
from pathlib import Path

import pytest
from covering import covering
from results.test_results_formats import FILES
from suites.as_tables import write_table
from suites.official import MAKE
from suites.test_mmspec_mmstar import mmstar_rows
from suites.test_table_suites import mmmu_row
from typer.testing import CliRunner

from fastvlm_bench.cli.app import app
from fastvlm_bench.suites.definition import describe_suites, read_definition
from fastvlm_bench.suites.results_formats import encode
from fastvlm_bench.suites.suite import load_suite

MMMU = [f"{subject}/validation-00000-of-00001.parquet" for subject in ("Art", "Biology")]
DIALOGS = ("visdial", "visdial-turns")  # they read the files of visdial-gen
ALL = {**FILES, **dict.fromkeys(DIALOGS, FILES["visdial-gen"]), "mmmu": MMMU, "mmstar": ["mmstar.parquet"]}
PERFECT = {
    "coco-caption": {"rouge_l": 1.0}, "nocaps": {"rouge_l": 1.0, "rouge_l[in-domain]": 1.0},
    "flickr30k": {"rouge_l": 1.0},
    "okvqa": {"vqa_accuracy": 0.3, "exact_match": 1.0}, "gqa": {"gqa_match": 1.0}, "textvqa": {"vqa_accuracy": 0.3},
    "visdial-gen": {"exact_match": 1.0}, "visdial-turns": {"exact_match": 1.0},
    "scienceqa-img": {"multiple_choice": 1.0, "unparsed": 0.0},
    "chartqa": {"relaxed_accuracy": 1.0, "relaxed_accuracy[test_human]": 1.0}, "docvqa": {"anls": 1.0},
    "pope": {"pope": 1.0, "f1": 1.0, "yes_ratio": 0.5, "pope[coco_pope_popular]": 1.0},
    "visdial": {"r@1": 0.1, "r@5": 0.5, "r@10": 1.0, "mean_rank": 5.5, "visdial_ranking": 0.2928968253968254},
    "mmmu": {"multiple_choice": 1.0, "unparsed": 0.0},
    "mmstar": {"multiple_choice": 1.0, "unparsed": 0.0, "multiple_choice[c1]": 1.0},
}  # fmt: skip
"""Suite -> the scores of its first references (VQA: each of ten people answers differently), or of ranks 1 … 100."""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(name: str, root: Path) -> None:
    if name == "mmmu":
        for file in MMMU:
            place = Path(file).parent.name
            write_table(root / file, [mmmu_row(id=f"validation_{place}_{n}") for n in (1, 2)])
    elif name == "mmstar":
        write_table(root / "mmstar.parquet", mmstar_rows())
    else:
        MAKE["visdial-gen" if name in DIALOGS else name](root)


def predictions(name: str, root: Path) -> Path:
    split = "karpathy-test-lavis" if name == "coco-caption" else None
    ranks = " ".join(map(str, range(1, 101)))
    rows = [
        {"sample_id": s.sample_id, "question": s.question, "group": s.group,
         "text": ranks if name == "visdial" else s.references[0]}
        for s in load_suite(name, data=root, split=split, ranking=True).samples
    ]  # fmt: skip
    path = root / "predictions.json"
    path.write_bytes(b"".join(encode(read_definition(name).results, rows, "m").values()))
    return path


def test_every_suite_with_a_metric_is_here() -> None:
    own = {
        suite.name for suite in describe_suites() if suite.metrics and any(not s.root for s in suite.splits.values())
    }
    # vqav2 has the form of okvqa, describe that of coco-caption; jsonl is one of your own
    assert own - {"vqav2", "describe", "jsonl"} == set(ALL) == set(PERFECT)


@pytest.mark.parametrize("name", covering(ALL, ["coco-caption", "textvqa", "pope", "visdial", "mmmu"]))
def test_score_from_the_command_line(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(name, root)
    path = predictions(name, root)
    files = [argument for file in ALL[name] for argument in ("--annotations", str(root / file))]
    found = []
    for given in (files, ["--annotations", str(root)]):
        arguments = ["score", "-s", name, *given, "--predictions", str(path)]
        result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0 and len(result.stdout.splitlines()) == 1, result.output
        found.append(json.loads(result.stdout))
        shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert shown.exit_code == 0 and f"{name}, " in shown.stdout
        assert ("tokenizer" in shown.stdout) == ("bleu4" in read_definition(name).metrics)
    assert found[0]["metrics"] == found[1]["metrics"] and found[1]["split"] in read_definition(name).splits
    for key, value in PERFECT[name].items():
        assert found[0]["metrics"][key] == pytest.approx(value, rel=1e-12), key


def test_a_folder_without_the_files_says_what_was_looked_for(tmp_path: Path) -> None:
    arguments = ["score", "-s", "scienceqa-img", "--annotations", str(tmp_path), "--predictions", "x"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 2 and "test: annotations/problems.json, annotations/pid_splits.json" in result.stderr


def test_suites_without_official_files_say_that_they_need_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    for given, words in (
        (tmp_path, "no split of suite 'mmstar' under"),
        (tmp_path / "a.json", "read from parquet"),
    ):
        arguments = ["score", "-s", "mmstar", "--annotations", str(given), "--predictions", "x"]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 2 and words in result.stderr, result.stderr


def test_numbers_of_samples_are_counts_and_no_metrics(tmp_path: Path) -> None:
    make("visdial", tmp_path)
    relevance = [{"image_id": 185565, "round_id": 1, "gt_relevance": [1.0] + [0.0] * 99}]
    (tmp_path / "visdial_1.0_val_dense_annotations.json").write_text(json.dumps(relevance))
    arguments = ["score", "-s", "visdial", "--annotations", str(tmp_path), "--json", "--predictions"]
    result = CliRunner().invoke(app, [*arguments, str(predictions("visdial", tmp_path))], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["metrics"]["ndcg"] == 1.0 and found["counts"] == {"ndcg_samples": 1.0, "ndcg_all_zero": 0.0}
