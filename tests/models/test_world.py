"""The embedded world: scenes, pictures, captions and descriptions, splits."""

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from covering import covering
from PIL import Image

from fastvlm_bench.embedded import render_suites
from fastvlm_bench.embedded.evaluate import facts
from fastvlm_bench.suites.catalogue import suites_folder
from fastvlm_bench.world import language
from fastvlm_bench.world.drawings import FIGURES, PAINT, PIXELS, drawing
from fastvlm_bench.world.pictures import CELL, IMAGE_SIZE, landscape, render
from fastvlm_bench.world.scenes import (
    COLORS,
    KINDS,
    ONLY_ONE,
    PLACES,
    VIEWS,
    Object,
    Scene,
    found_in,
    sample_scene,
)
from fastvlm_bench.world.splits import shown, validation_scene


def scenes(count: int, *, held_out: bool = False, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, held_out=held_out) for _ in range(count)]


def texts(count: int, seed: int = 8) -> list[str]:
    """Everything that is said about some scenes."""
    return [
        text
        for s in scenes(count, seed=seed)
        for text in [*(language.caption(s, v) for v in range(language.CAPTION_VARIANTS)),
                     *(language.description(s, v) for v in range(3))]
    ]  # fmt: skip


@pytest.mark.slow
def test_splits_are_disjoint_by_construction() -> None:
    train = {s.digest() for s in scenes(3000)}
    held_out = {s.digest() for s in scenes(1000, held_out=True)}
    assert not train & held_out
    assert all(int(d[:8], 16) % 10 == 0 for d in held_out) and all(int(d[:8], 16) % 10 for d in train)


@pytest.mark.parametrize("count", covering([100, 500], [100]))
def test_drafts_are_chosen_on_scenes_that_no_suite_shows(count: int) -> None:
    """Every scene of the committed suites is held out; no validation scene is one of them, nor a training scene."""
    committed = shown()
    assert len(committed) > 400 and all(int(digest[:8], 16) % 10 == 0 for digest in committed)
    rng = np.random.default_rng(0)
    drawn = {validation_scene(rng, fewest).digest() for fewest in (1, 1, 1, 3) for _ in range(count)}
    assert not drawn & committed and all(int(digest[:8], 16) % 10 == 0 for digest in drawn)
    rng = np.random.default_rng(0)
    met = any(sample_scene(rng, held_out=True).digest() in committed for _ in range(20_000))
    assert met, "without the rule, scenes of few things would be met again"


def test_whereabouts_say_what_the_cells_say() -> None:
    """Of three things that are alone in their kind at most, each from the one before it."""
    sentences = 0
    for scene in scenes(400):
        lone = language.alone(scene)[:3]
        said = [line for kind, line in language.stated(scene) if kind == "whereabouts"]
        assert len(said) == max(len(lone) - 1, 0)
        for line, before, after in zip(said, lone, lone[1:], strict=False):
            assert line.startswith(f"the {after.kind} is ") and line.endswith(f" the {before.kind}")
            assert ("left" in line) == (after.column < before.column)
            assert ("right" in line) == (after.column > before.column)
            assert ("above" in line, "below" in line) == (
                after.column == before.column and after.row < before.row,
                after.column == before.column and after.row > before.row,
            )
        sentences += len(said)
    assert sentences > 200


def test_sizes_name_the_large_things() -> None:
    for scene in scenes(400):
        said = dict(language.stated(scene)).get("sizes", "")
        large = [language.colored(o) for o in scene.objects if o.size == "large"]
        if 0 < len(large) < len(scene.objects):
            assert all(name in said for name in large) and ("only" in said) == (len(large) == 1)


def test_jitter_does_not_make_another_scene() -> None:
    scene = scenes(1)[0]
    moved = Scene(
        scene.place,
        scene.time,
        tuple(Object(o.kind, o.color, o.size, o.cell, -o.dx, -o.dy, not o.mirrored) for o in scene.objects),
        (scene.view + 1) % VIEWS,
    )
    assert moved.digest() == scene.digest() and render(moved).tobytes() != render(scene).tobytes()


def test_scenes_hold_what_is_found_in_such_places() -> None:
    for scene in scenes(500):
        assert [o.cell for o in scene.objects] == sorted({o.cell for o in scene.objects})
        for item in scene.objects:
            assert item.kind in found_in(scene.place, scene.time, item.row) and item.color in KINDS[item.kind]
        for kind in ONLY_ONE:
            assert sum(o.kind == kind for o in scene.objects) <= 1


def test_every_kind_is_drawn_within_its_square_and_in_its_colour() -> None:
    assert set(FIGURES) == set(KINDS) and set(PAINT) == set(COLORS)
    for kind, colors in KINDS.items():
        for color in colors:
            image = np.asarray(drawing(kind, color, "large", False)).astype(int)
            solid = image[..., 3] > 250
            assert image.shape == (PIXELS["large"], PIXELS["large"], 4) and solid.mean() > 0.15
            near = np.abs(image[..., :3] - PAINT[color]).max(axis=-1) < 40
            assert (near & solid).sum() > 0.2 * solid.sum(), (kind, color)


def test_things_stay_in_their_cells() -> None:
    """Outside of the occupied cells (and a shadow's height below) the picture is the empty landscape."""
    for scene in scenes(60, seed=3):
        pixels, empty = np.asarray(render(scene)), np.asarray(landscape(scene.place, scene.time, scene.view))
        assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        changed = (pixels != empty).any(axis=-1)
        for item in scene.objects:
            top, left = item.row * CELL, item.column * CELL
            assert changed[top : top + CELL, left : left + CELL].any()
            changed[top : top + CELL + 3, left : left + CELL] = False
        assert not changed.any()


def test_places_and_times_look_different() -> None:
    means = [np.asarray(landscape(p, t, 0)).mean(axis=1) for p in PLACES for t in ("day", "sunset", "night")]
    for i, a in enumerate(means):
        assert all(np.abs(a - b).max() > 12 for b in means[:i])


def test_captions_are_single_sentences_and_descriptions_are_whole_ones() -> None:
    for text in texts(150):
        assert text[0].isupper() and text.endswith(".") and "  " not in text and ".." not in text
        assert all(part[0].isupper() for part in text.split(". "))
    for scene in scenes(50):
        assert all(language.caption(scene, v).count(".") == 1 for v in range(language.CAPTION_VARIANTS))


def test_the_grammar_holds() -> None:
    """Articles, numbers and agreement, over a few thousand texts."""
    plurals = "|".join(language.plural(kind) for kind in KINDS if kind != "fish")
    faults = [
        r"\ba [aeiou]", r"\ban [^aeiou]", r"\bzero\b", rf"\b(?:a|an|one|another) (?:\w+ )?(?:\w+ )?(?:{plurals})\b",
        r"\bone of them are\b", r"\b(?:two|three|four|five) of them is\b", r"\bthere is (?:two|three|four|five)\b",
        r"\bthere are (?:a|an|one)\b", r"\b(?:fishs|snowmans|flys|things? to sees)\b", r"\bone things\b",
        rf"\b(?:two|three|four|five) (?:\w+ )?(?:\w+ )?(?:{'|'.join(set(language.VERBS.values()))})\b",
        r"\b(\w+) \1\b", r" ,| \.",
    ]  # fmt: skip
    for text in texts(600):
        for fault in faults:
            assert not re.search(fault, text, re.IGNORECASE), (fault, text)


def test_a_description_names_every_thing_with_its_size_and_column() -> None:
    for scene in scenes(400, seed=11):
        text = language.description(scene)
        for item in scene.objects:
            name = language.colored(item)
            several = f"{name.removesuffix(item.kind)}{language.plural(item.kind)}"
            assert f"{item.size} {name}" in text or f"{item.size} {several}" in text
        numbers = Counter(re.findall(r"on the left|in the middle|on the right|side by side", text))
        assert sum(numbers.values()) + 2 * numbers["side by side"] == len(scene.objects)


def test_a_long_description_is_long() -> None:
    lengths = [len(re.findall(r"\w+|[.,]", language.description(s))) for s in scenes(300) if len(s.objects) >= 3]
    assert min(lengths) >= 55 and max(lengths) <= 130


def test_references_of_a_scene_differ() -> None:
    for scene in scenes(200):
        assert len({language.caption(scene, v) for v in range(language.CAPTION_VARIANTS)}) == language.CAPTION_VARIANTS
        assert len({language.description(scene, v) for v in range(3)}) == 3


def test_facts_count_the_sentences_that_are_right() -> None:
    scene = next(s for s in scenes(50) if len(s.objects) == 3)
    right = language.description(scene)
    true, told = facts(scene, right)
    assert true == told and told.total() == right.count(". ") + 1 and {"opening", "row", "sizes"} <= told.keys()
    true, told = facts(scene, right.replace("three", "two", 1))
    assert told - true == {"opening": 1}
    assert facts(scene, "") == ({}, told)


@pytest.mark.parametrize("drawn", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_embedded_splits_are_what_the_script_writes(
    drawn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts, names, and every twentieth picture (slow: every one); the others are left blank, which takes no time."""
    numbers = itertools.count()

    def some(scene: Scene) -> Image.Image:
        return blank if next(numbers) % drawn else render(scene)

    blank = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    monkeypatch.setattr(render_suites, "render", some)
    monkeypatch.setattr("sys.argv", ["render_suites", str(tmp_path)])
    render_suites.main()
    written = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    there = suites_folder() / "data"
    assert sum(path.suffix == ".json" for path in written) == 12
    assert written == sorted(p.relative_to(there) for p in there.rglob("*.*"))
    compared = 0
    for path in written:
        if path.suffix in (".json", ".jsonl"):
            assert (tmp_path / path).read_text() == (there / path).read_text()
            continue
        ours, theirs = (
            np.asarray(Image.open(folder / path).convert("RGB")).astype(int) for folder in (tmp_path, there)
        )
        if ours.any():
            compared += 1
            assert np.abs(ours - theirs).mean() < 1, path
    assert compared == -(-next(numbers) // drawn)
