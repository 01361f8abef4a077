"""A run over the parquet form of a data set: outputs, scores and ids as over its official files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suites.as_tables import image, write_table

from fastvlm_bench.analysis.summary import summarise
from fastvlm_bench.records.record import Run, read_run
from fastvlm_bench.suites.suite import load_suite

FILES = ("v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json")


def official(root: Path) -> list[dict[str, Any]]:
    """VQAv2's official files below `root`, made of embedded samples; and the same as rows of a table."""
    import json
    import shutil

    root.mkdir()
    rows = []
    questions, annotations = [], []
    for sample in load_suite("vqav2", split="embedded", limit=4).samples:
        number = int(sample.image_id)
        name = root / "val2014" / f"COCO_val2014_{number:012d}.jpg"
        name.parent.mkdir(exist_ok=True)
        shutil.copy(sample.image_path, name)
        answers = [
            {"answer": text, "answer_id": n, "answer_confidence": "yes"} for n, text in enumerate(sample.references)
        ]
        key = {"question_id": int(sample.sample_id), "image_id": number}
        questions.append({**key, "question": sample.question})
        annotations.append({**key, "answers": answers, "answer_type": "other"})
        rows.append({**questions[-1], **annotations[-1], "image": image(name)})
    for file, key, content in zip(FILES, ("questions", "annotations"), (questions, annotations), strict=True):
        (root / file).write_text(json.dumps({key: content}))
    return rows


def essence(run: Run) -> list[tuple[Any, ...]]:
    return [(line["sample_id"], line["method"], line["token_ids"], line["text"], line["scores"]) for line in run.lines]


@pytest.mark.slow
def test_both_forms_give_the_same_run(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = official(tmp_path / "official")
    write_table(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", rows, row_group_size=1)
    runs = []
    for form in ("official", "hub"):
        out = tmp_path / f"out-{form}"
        result = call("run", "--suite", "vqav2", "--data", tmp_path / form, "--limit", 3, "--threads", 1, "--warmup", 0,
                      "--max-new-tokens", 4, "--quiet", "--out", out)  # fmt: skip
        assert result.exit_code == 0, result.output
        runs.append(read_run(next(out.glob("*/run.json")).parent))
    assert essence(runs[0]) == essence(runs[1]) and len(essence(runs[1])) == 6
    quality = [[(q.metric, q.value) for row in summarise(run) for q in row.quality] for run in runs]
    assert quality[0] == quality[1] and quality[0]
    assert [run.meta["suites"][0]["split"] for run in runs] == ["val2014"] * 2
