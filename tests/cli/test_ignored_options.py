"""No option is taken and then ignored: what cannot have an effect is refused, with the option that would have it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastvlm_bench.models.load

GOLDEN = Path(__file__).parents[1] / "results" / "golden-v1"
FILE, FOLDER = "FILE", "FOLDER"


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded before the input was checked")

    monkeypatch.setattr(fastvlm_bench.models.load, "load_target", fail)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["report", GOLDEN, "-f", "csv"], ["--format csv is for --plots", "fastvlm-bench export"]),
        (["report", GOLDEN, "-f", "pdf", "--html", FILE], ["--format pdf is for --plots"]),
        (["report", GOLDEN, "--plots", FOLDER, "-f", "csv"], ["unknown format 'csv'", "pdf, png, svg"]),
        (["report", GOLDEN, "--details", "--html", FILE], ["--details", "--html", "leave one of them out"]),
        (["report", GOLDEN, "--details", "--plots", FOLDER], ["--details", "--plots", "leave one of them out"]),
        (["report", GOLDEN, GOLDEN, "--memory-picture", FILE], ["--memory-picture", "one run, not of 2"]),
        (["report", GOLDEN, "--results", FOLDER], ["--results", "not named"]),
        (["show", GOLDEN, "--results", FOLDER], ["--results", "not named"]),
        (["export", GOLDEN, "--results", FOLDER], ["--results", "not named"]),
        (["compare", GOLDEN, GOLDEN, "--results", FOLDER], ["--results", "not named"]),
        (["compare", "--force"], ["--force", "named"]),
        (["export", GOLDEN, "-f", "cvs", "--columns", "alpha"], ["unknown format 'cvs'", "did you mean 'csv'?"]),
        (["export", GOLDEN, "-f", "cvs", "--method", "fastvlm"], ["unknown format 'cvs'", "did you mean 'csv'?"]),
        (["score", "-s", "coco-caption", "--annotations", FILE, "--predictions", FILE, "--margin", "1"],
         ["--margin", "--reference"]),
        (["run", "--details", "--json"], ["--details", "--json", "leave one of them out"]),
        (["run", "--details", "--batch-size", "1,2"], ["--details", "one batch size"]),
    ],
    ids=lambda value: " ".join(map(str, value[:-1] if value[0] != "run" else value)).replace(str(GOLDEN), "RUN"),
)  # fmt: skip
def test_what_has_no_effect_is_refused(
    words: list[Any], says: list[str], refused: Callable[..., str], tmp_path: Path
) -> None:
    places = {FILE: tmp_path / "page.svg", FOLDER: tmp_path}
    line = refused(*(places.get(word, word) for word in words))
    assert all(text in line for text in says), line
    assert not list(tmp_path.iterdir()), "nothing is written before it is refused"


def test_files_that_cannot_be_written_are_told_before_anything_is_done(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("fastvlm_bench.report.trackers.check_trackers", lambda names: None)
    monkeypatch.setattr("fastvlm_bench.report.trackers.report_to", lambda *told: sent.append(told))
    assert "is a folder" in refused("report", GOLDEN, "--report-to", "wandb", "--html", tmp_path)
    assert "unknown format" in refused("report", GOLDEN, "--report-to", "wandb", "--plots", tmp_path, "-f", "gif")
    assert sent == []
