"""The embedded world: scenes, language and splits."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fastvlm_bench.models.tiny import language
from fastvlm_bench.models.tiny.evaluate import facts
from fastvlm_bench.models.tiny.render_suites import main as render_suites
from fastvlm_bench.models.tiny.scenes import CELL, IMAGE_SIZE, Scene, render, sample_scene
from fastvlm_bench.suite_definition import suites_folder


def scenes(count: int, *, held_out: bool = False, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, held_out=held_out) for _ in range(count)]


def test_splits_are_disjoint_by_construction() -> None:
    train = {s.digest() for s in scenes(3000)}
    held_out = {s.digest() for s in scenes(3000, held_out=True)}
    assert not train & held_out
    assert all(int(d[:8], 16) % 10 == 0 for d in held_out) and all(int(d[:8], 16) % 10 for d in train)


def test_jitter_does_not_make_another_scene() -> None:
    scene = scenes(1)[0]
    moved = Scene(
        scene.background,
        tuple(type(o)(o.shape, o.color, o.size, o.pattern, o.cell, -o.dx, -o.dy) for o in scene.objects),
        -scene.shade,
    )
    assert moved.digest() == scene.digest() and render(moved).tobytes() != render(scene).tobytes()


def test_objects_stay_in_their_cells() -> None:
    """Outside of the occupied cells every pixel is background: no object is cut or reaches its neighbour."""
    for scene in scenes(60, seed=3):
        pixels = np.asarray(render(scene)).astype(int)
        taken = {o.cell for o in scene.objects}
        for cell in set(range(9)) - taken:
            y, x = cell // 3 * CELL, cell % 3 * CELL
            assert np.ptp(pixels[y : y + CELL, x : x + CELL].reshape(-1, 3), axis=0).max() == 0
        assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)


def test_questions_have_one_right_answer() -> None:
    rng, kinds = np.random.default_rng(1), Counter[str]()
    yes_no = Counter[str]()
    for scene in scenes(800, seed=2):
        for q in language.questions(scene, rng):
            kinds[q.kind] += 1
            if q.kind == "count":
                assert q.answer == str(len(scene.objects))
            elif q.kind in ("color", "size", "pattern"):
                (item,) = [o for o in scene.objects if f" {o.shape}" in q.text]
                assert q.answer == getattr(item, q.kind)
            elif q.kind == "where":
                (item,) = [o for o in scene.objects if f" {o.shape}?" in q.text]
                assert q.answer == item.position
            elif q.kind in ("exists", "relation"):
                yes_no[f"{q.kind} {q.answer}"] += 1
    assert len(kinds) == 12
    for kind in ("exists", "relation"):  # balanced: a blind guess is worth half
        share = yes_no[f"{kind} yes"] / (yes_no[f"{kind} yes"] + yes_no[f"{kind} no"])
        assert 0.4 < share < 0.65


def test_ten_answers_agree_on_the_right_one() -> None:
    rng = np.random.default_rng(5)
    for scene in scenes(200):
        for q in language.questions(scene, rng):
            answers = language.human_answers(q, rng)
            assert len(answers) == 10 and Counter(answers).most_common(1)[0][0] == q.answer
            assert answers.count(q.answer) >= 7


def test_facts_count_what_is_right() -> None:
    scene = next(s for s in scenes(50) if len(s.objects) == 3)
    right = language.description(scene)
    assert facts(scene, right) == (4, 4)
    item = scene.objects[1]
    wrong = right.replace(f"{language.noun(item)}", f"{language.noun(item)}x", 1)
    assert facts(scene, wrong.replace("three", "two", 1))[0] <= 3
    assert facts(scene, "") == (0, 4)


@pytest.mark.parametrize("variant", range(language.CAPTION_VARIANTS))
def test_captions_are_single_sentences(variant: int) -> None:
    for scene in scenes(100):
        text = language.caption(scene, variant)
        assert text[0].isupper() and text.count(".") == 1 and text.endswith(".") and "  " not in text


def test_embedded_splits_are_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["render_suites", str(tmp_path)])
    render_suites()
    written = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.suffix == ".json")
    assert len(written) == 10
    for path in written:
        assert (tmp_path / path).read_text() == (suites_folder() / "data" / path).read_text()
