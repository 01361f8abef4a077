"""What a training leaves beside the weights: card, curve, and what goes to the hub."""

import csv
import fnmatch
import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.drafts.manifest import read_manifests
from fastvlm_bench.drafts.speculation_profile import read_profile
from fastvlm_bench.training import costs, fit
from fastvlm_bench.training.display import Display, table
from fastvlm_bench.training.outcome import CURVE_COLUMNS, draw_curve, push
from fastvlm_bench.training.settings import TrainSettings
from fastvlm_bench.training.validation import GAMMA, Validated


@pytest.fixture(scope="module")
def made(checkpoint: Path, pictures: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "draft"
    settings = TrainSettings(
        out=str(out), model=str(checkpoint), images=str(pictures[0]), prompts=str(pictures[1]), exit_layers=("1", "2"),
        heads=("linear",), samples=4, held_out=2, max_new_tokens=6, updates=4, refine_updates=0, batch=2, micro=2,
        validate_every=2, draft_vocabulary=30, device="cpu",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "measure_costs", lambda *_: PassCosts(1.0, 0.05, [1.0] * 11))
        assert fit.train(settings) == 0
    return out


def test_card_and_manifest(made: Path, checkpoint: Path) -> None:
    found = read_manifests(made)
    assert [folder.name for folder in found] == ["linear-exit1", "linear-exit2"]
    assert sum(manifest.default for manifest in found.values()) == 1
    for folder, manifest in found.items():
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: fastvlm-bench\n") and "base_model" not in card
        assert f"Exit layer {manifest.exit_layer} of 4 with a head of kind `linear`" in card
        assert manifest.target_weights_sha256[:16] in card and f"{manifest.head_parameters:,} parameters" in card
        assert f"γ {manifest.advice['gamma']}" in card and "A prediction is not a measurement" in card
        for suite, alpha in manifest.validation.items():
            assert f"| {suite} | {alpha:.3f} |" in card
        assert manifest.draft_vocabulary > 0 and manifest.data["recipe"]["exit_layer"] == manifest.exit_layer


def test_profile_beside_the_draft_has_the_rates_of_validation(made: Path) -> None:
    (folder, *others) = read_manifests(made)
    found = read_profile(folder)
    assert len(others) == 1 and all(read_profile(other) for other in others)
    assert found is not None and found["speculative_tokens"] == GAMMA and found["data"]
    tested, rejected = found["tested_by_position"], found["rejected_by_position"]
    assert tested[0] > 0 and list(tested) == sorted(tested, reverse=True)
    for rate, of, lost in zip(found["conditional_acceptance_rates"], tested, rejected, strict=True):
        assert rate == pytest.approx((of - lost) / of, abs=1e-4)
    assert found["acceptance_length"] == pytest.approx(found["tokens"] / found["rounds"], abs=1e-4)
    assert sum(found["tested_by_position"]) - sum(rejected) <= found["tokens"]


def test_curve(made: Path) -> None:
    rows = list(csv.DictReader((made / "curve.csv").open()))
    assert tuple(rows[0]) == CURVE_COLUMNS
    assert [(row["done"], row["draft"]) for row in rows] == [
        (done, f"linear-exit{place}") for done in ("2", "4") for place in (1, 2)
    ]
    logged = [json.loads(line) for line in (made / "log.jsonl").read_text().splitlines()]
    assert float(rows[-1]["alpha"]) == logged[-1]["validated"]["linear-exit2"]["alpha"]
    assert float(rows[0]["loss"]) == logged[0]["loss"]["linear-exit1"]


def test_picture(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    assert (made / "curve.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw_curve(made) is None, "without matplotlib there is no picture, and no error"


def test_push(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[str, Any]] = []

    class FakeApi:
        def create_repo(self, repository: str, exist_ok: bool) -> None:
            calls.append(("create", (repository, exist_ok)))

        def upload_folder(self, *, folder_path: Path, repo_id: str, ignore_patterns: list[str]) -> None:
            files = [p.relative_to(folder_path).as_posix() for p in sorted(folder_path.rglob("*")) if p.is_file()]
            kept = [f for f in files if not any(fnmatch.fnmatch(f, pattern) for pattern in ignore_patterns)]
            calls.append((repo_id, kept))

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    (made / "backbone.pt").write_bytes(b"weights in progress")
    (made / "answers-backbone.jsonl").write_text("")
    push(made, "user/draft", Display())
    (created, (repository, uploaded)) = calls
    assert created == ("create", ("user/draft", True)) and repository == "user/draft"
    assert {"log.jsonl", "curve.csv"} <= set(uploaded)
    for folder in ("linear-exit1", "linear-exit2"):
        assert {f"{folder}/{name}" for name in ("manifest.json", "head.safetensors", "README.md")} <= set(uploaded)
    assert not [name for name in uploaded if name.endswith(".pt") or name.startswith(("answers", "settings"))]
    assert "use it with --draft user/draft" in capsys.readouterr().out


def test_live_table() -> None:
    own = Validated(0.5, 2.0, [0.9, 0.8], 1.234, 6, 0.3)
    shown = table("held out", {"a": 1.0}, {"a": own, "b": own}, {"a": 50})
    assert shown.row_count == 2
    cells = [list(column.cells) for column in shown.columns]
    assert [column[0] for column in cells] == [
        "a", "1.000", "0.500", "0.90", "0.80", "", "", "2.00", "1.23x", "6", "0.3", "50",
    ]  # fmt: skip
    assert cells[1][1] == "nan" and cells[-1][1] == ""
