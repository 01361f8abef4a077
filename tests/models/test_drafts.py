"""Which draft a user means: by head and exit layer, else the default, else the one that promises most."""

import inspect
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from fastvlm_bench.drafts.heads import HEADS
from fastvlm_bench.drafts.manifest import MANIFEST, Manifest, choose_draft, predicted_speedup, read_manifests
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.names import TINY_DRAFTS


def draft(root: Path, head: str, exit_layer: int, alpha: float, default: bool = False) -> Manifest:
    manifest = Manifest(exit_layer, head, "X", 24, 192, 640, "0" * 64, 1, validation={"s": alpha}, default=default)
    folder = root / f"{head}-exit{exit_layer}"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest)))
    return manifest


def choose(root: Path, head: str | None = None, exit_layer: int | None = None) -> str:
    return choose_draft(root, head=head, exit_layer=exit_layer, model="m").name


def test_choice(tmp_path: Path) -> None:
    draft(tmp_path, "mlp", 2, 0.7)
    draft(tmp_path, "mlp", 16, 0.9)
    draft(tmp_path, "attention", 2, 0.85)
    assert choose(tmp_path) == "attention-exit2"
    assert choose(tmp_path, head="mlp") == "mlp-exit2", "two thirds of the target as a draft cannot pay"
    assert choose(tmp_path, exit_layer=16) == "mlp-exit16"
    draft(tmp_path, "twig", 1, 0.1, default=True)
    assert choose(tmp_path) == "twig-exit1"
    with pytest.raises(UsageError, match="no draft with head=twig,exit_layer=2 .* there is .*head=mlp,exit_layer=2"):
        choose(tmp_path, "twig", 2)


def test_prediction_by_hand(tmp_path: Path) -> None:
    # E = 1 + .5 + .25 = 1.75 at γ = 2; c = (2 + 1) / 24 = 1/8; 1.75 / (2/8 + 1) = 1.4
    assert predicted_speedup(draft(tmp_path, "attention", 2, 0.5), gamma=2) == pytest.approx(1.4)


def test_every_head_has_its_cost() -> None:
    from fastvlm_bench.drafts.manifest import HEAD_LAYERS

    assert set(HEAD_LAYERS) == set(HEADS)
    for name, kind in HEADS.items():
        depth = inspect.signature(kind).parameters.get("depth")
        assert HEAD_LAYERS[name] == (depth.default if depth else 0)


def test_one_folder_or_many(tmp_path: Path) -> None:
    draft(tmp_path, "mlp", 2, 0.7)
    assert list(read_manifests(tmp_path / "mlp-exit2")) == [tmp_path / "mlp-exit2"]
    assert list(read_manifests(tmp_path)) == [tmp_path / "mlp-exit2"]


def test_exit_layer_beyond_the_target(tmp_path: Path) -> None:
    draft(tmp_path, "mlp", 2, 0.7)
    (tmp_path / "mlp-exit2" / MANIFEST).write_text(
        (tmp_path / "mlp-exit2" / MANIFEST).read_text().replace('"exit_layer": 2', '"exit_layer": 24')
    )
    with pytest.raises(UsageError, match=r"exit layer 24 is not within 1 \.\. 23"):
        choose(tmp_path)


def test_of_several_defaults_the_better_one_is_taken_and_named(tmp_path: Path) -> None:
    """Two trainings in one folder leave two defaults."""
    draft(tmp_path, "attention", 2, 0.6, default=True)
    told: list[str] = []
    chosen = choose_draft(tmp_path, head=None, exit_layer=None, model="m", tell=told.append)
    assert chosen.name == "attention-exit2" and told == []
    draft(tmp_path, "mlp", 2, 0.9, default=True)
    assert choose_draft(tmp_path, head=None, exit_layer=None, model="m", tell=told.append).name == "mlp-exit2"
    assert len(told) == 1 and "mlp-exit2, attention-exit2" in told[0] and "draft=" in told[0]


def test_what_training_predicted_from_measured_costs_decides(tmp_path: Path) -> None:
    for head, alpha, speedup in (("mlp", 0.9, 1.2), ("attention", 0.8, 1.9)):
        made = draft(tmp_path, head, 2, alpha)
        file = tmp_path / f"{head}-exit2" / MANIFEST
        file.write_text(json.dumps({**asdict(made), "advice": {"gamma": 4, "stop_below": 0.5, "speedup": speedup}}))
    assert choose(tmp_path) == "attention-exit2"


def test_the_embedded_drafts_have_one_default() -> None:
    kinds: dict[bool, list[bool]] = {False: [], True: []}
    for manifest in read_manifests(TINY_DRAFTS).values():
        kinds[manifest.head == "medusa"].append(manifest.default)
    assert [found.count(True) for found in kinds.values()] == [1, 1], "one for fastvlm, one for medusa"
