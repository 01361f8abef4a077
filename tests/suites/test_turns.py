"""Samples of several turns and images of one's own, and VisDial's dialogs: what each turn asks, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from suites.conftest import picture
from suites.official import lines

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.suite import Suite, check_images, images_sha256, load_suite

TALK: dict[str, Any] = {"id": "a", "images": ["1.png", "2.png"], "turns": ["What?", "And <image 2>?"],
                        "references": [["x", "y"], ["z"]]}  # fmt: skip
PLAIN: dict[str, Any] = {"id": "b", "image": "1.png", "prompt": "What?", "references": ["x"]}


def own(folder: Path, *rows: dict[str, Any]) -> Suite:
    for name in ("1.png", "2.png", "3.png"):
        picture(folder / name)
    lines(folder / "mine.jsonl", list(rows))
    return load_suite("jsonl", data=folder / "mine.jsonl")


def test_jsonl_takes_lists_of_one(tmp_path: Path) -> None:
    first = own(tmp_path, PLAIN).samples[0]
    second = own(tmp_path, {"id": "b", "images": ["1.png"], "turns": ["What?"], "references": [["x"]]}).samples[0]
    assert (first.prompt, first.image_paths, first.references) == (second.prompt, second.image_paths, second.references)
    assert first.dialog == second.dialog == ""


def test_each_turn_has_its_own_references_and_all_images(tmp_path: Path) -> None:
    suite = own(tmp_path, TALK, PLAIN)
    told = [(s.sample_id, s.dialog, s.turn, s.prompt, s.earlier, s.references) for s in suite.samples]
    assert told == [
        ("a", "a", 1, "What?", (), ("x", "y")), ("a#2", "a", 2, "And <image 2>?", ("What?",), ("z",)),
        ("b", "", 1, "What?", (), ("x",)),
    ]  # fmt: skip
    assert [[path.name for path in s.image_paths] for s in suite.samples] == [["1.png", "2.png"]] * 2 + [["1.png"]]
    assert [s.sample_id for s in load_suite("jsonl", data=tmp_path / "mine.jsonl", limit=1).samples] == ["a", "a#2"]


def test_samples_that_share_an_image_are_one_group(tmp_path: Path) -> None:
    """Directly, or through a third sample: intervals are over images, and these are not independent."""
    one = {**PLAIN, "id": "1", "image": "1.png"}
    three = {**PLAIN, "id": "3", "image": "3.png"}
    both = {"id": "13", "images": ["3.png", "1.png"], "prompt": "Which?", "references": ["x"]}
    two = {**PLAIN, "id": "2", "image": "2.png"}
    first, third, joined, alone = (sample.image_id for sample in own(tmp_path, one, three, both, two).samples)
    assert first == third == joined != alone


def test_every_image_is_looked_at(tmp_path: Path) -> None:
    suite = own(tmp_path, TALK)
    before = images_sha256(suite)
    picture(tmp_path / "2.png", (90, 70))
    assert images_sha256(suite) != before and load_suite("jsonl", data=tmp_path / "mine.jsonl").sha256 != suite.sha256
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"1 of 2 images of jsonl/data cannot be read: 2.png"):
        check_images(suite)
    (tmp_path / "2.png").unlink()
    with pytest.raises(UsageError, match=r"1 of 2 images of jsonl/data are missing .*: 2.png"):
        load_suite("jsonl", data=tmp_path / "mine.jsonl")


@pytest.mark.parametrize(("rows", "words"), [
    ([{**TALK, "images": []}], "line 1.images is an empty list"),
    ([{**TALK, "images": ["1.png", None]}], "line 1.images[1] is no file name"),
    ([{**TALK, "images": "1.png"}], "line 1.images is a string, not a list"),
    ([{**TALK, "images": ["1.png"]}], "line 1.turns[1] refers to <image 2>, but the sample has 1 image"),
    ([{**PLAIN, "prompt": "Like <image 2>?"}], "refers to <image 2>, but the sample has 1 image"),
    ([{**TALK, "turns": ["What?", ""]}], "line 1.turns[1] has no text"),
    ([{**TALK, "turns": ["What?", "<image> here"]}], "line 1.turns[1] contains '<image>'"),
    ([{**TALK, "references": ["x", "z"]}], "line 1.references must have a list of texts for each of the 2 turns"),
    ([{**TALK, "references": [["x"]]}], "line 1.references has 1 list of texts, but there are 2 turns"),
    ([{**TALK, "references": [["x"], []]}], "line 1.references[1] is empty: the turn could not be scored"),
    ([TALK, {**PLAIN, "references": []}], "is empty here but not in all lines"),
    ([TALK, {**PLAIN, "id": "a#2"}], "(id a#2) has the id of turn 2 of line 1; give the sample another id"),
])  # fmt: skip
def test_faulty_turns_and_images_are_told(tmp_path: Path, rows: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        own(tmp_path, *rows)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_visdials_rounds_are_the_turns_of_a_dialog() -> None:
    turns, rounds = load_suite("visdial-turns", limit=2), load_suite("visdial-gen", limit=20)
    assert len(turns.samples) == 20 and len(turns.openings) == 2
    for turn, single in zip(turns.samples, rounds.samples, strict=True):
        assert (turn.dialog, turn.references, turn.question) == (single.image_id, single.references, single.question)
        assert len(turn.earlier) == turn.turn - 1 and not any(text in turn.prompt for text in turn.earlier)
