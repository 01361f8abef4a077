"""MMSpec's own files, MMStar's table, and samples of several turns or images: what is asked, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from suites.as_tables import Rows, png, write_table
from suites.conftest import picture
from suites.fake_hub import Hub, hub
from suites.official import lines
from suites.test_table_suites import cache

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import multiple_choice
from fastvlm_bench.suites import catalogue
from fastvlm_bench.suites.suite import load_suite

__all__ = ["cache", "hub"]  # fixtures
OPTIONS = "\nOptions: A: red, B: blue, C: green, D: grey"


def mmspec_row(number: int, **other: Any) -> dict[str, Any]:
    turns = ["What is it?", "And then?"] if number == 1 else [f"Look at <image 1>. {number}?"]
    return {"id": f"mmspec_{number:03d}", "image": f"mmspec_{number:03d}.jpg", "turns": turns, "category": "default",
            "topic": ("multi-turn conversation", "general vqa")[number % 2 == 0], **other}  # fmt: skip


def mmspec(folder: Path, rows: list[Any]) -> Path:
    lines(folder / "mmspec.jsonl", rows)
    for row in rows:
        picture(folder / "images" / row["image"])
    return folder


@pytest.mark.parametrize("nested", ["", "testmini", "MMSpec/testmini"])
def test_every_turn_is_a_sample_after_those_before(tmp_path: Path, nested: str) -> None:
    mmspec(tmp_path / nested, [mmspec_row(0), mmspec_row(1)])
    suite = load_suite("mmspec", split="testmini", data=tmp_path)
    first, second, later = suite.samples
    assert first.turns == (first.prompt,) == ("Look at <image 1>. 0?",) and first.group == "general vqa"
    assert (first.dialog, first.turn, first.earlier) == ("", 1, ())
    assert [(s.sample_id, s.dialog, s.turn, s.prompt, s.earlier) for s in (second, later)] == [
        ("mmspec_001", "mmspec_001", 1, "What is it?", ()),
        ("mmspec_001#2", "mmspec_001", 2, "And then?", ("What is it?",)),
    ]
    assert suite.metrics == () and suite.openings == (first, second) and suite.turns


def test_the_split_is_the_one_of_that_size(tmp_path: Path) -> None:
    """Both splits' files have the same name, so that one folder could be either."""
    for count, split in ((60, "testmini"), (600, "test"), (5, "test")):
        folder = tmp_path / str(count)
        rows = [{**mmspec_row(n), "image": "one.jpg"} for n in range(count)]
        mmspec(folder, rows[:1])
        lines(folder / "mmspec.jsonl", rows)
        assert load_suite("mmspec", data=folder).split == split


def test_mmspec_from_the_hub_fetches_the_images_it_needs(hub: Hub, tmp_path: Path) -> None:
    hub.add("someone/MMSpec", mmspec(tmp_path / "repo" / "testmini", [mmspec_row(0), mmspec_row(1)]).parent)
    suite = load_suite("mmspec", split="testmini", data="hf:someone/MMSpec", limit=1)
    assert suite.samples[0].image_path.name == "mmspec_000.jpg"
    assert sorted(hub.fetched) == ["testmini/images/mmspec_000.jpg", "testmini/mmspec.jsonl"]


@pytest.mark.parametrize(("row", "words"), [
    (mmspec_row(0, turns=["a", " "]), "line 1.turns[1] has no text"),
    (mmspec_row(0, turns=["a", None]), "line 1.turns[1] has no text"),
    (mmspec_row(0, turns=[]), "line 1.turns is an empty list"),
    (mmspec_row(0, turns="a"), "line 1.turns is a string, not a list"),
    (mmspec_row(0, turns=["See <image 2>"]), "line 1.turns[0] refers to <image 2>, but the sample has 1 image"),
])  # fmt: skip
def test_faulty_turns_are_told(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        load_suite("mmspec", data=mmspec(tmp_path, [row]))
    assert words in str(error.value)


def test_a_suite_may_ask_the_first_turn_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (catalogue.suites_folder() / "mmspec.toml").read_text()
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.toml").write_text(text.replace("metrics = []", "turns = 1\nmetrics = []"))
    (tmp_path / "suites" / "two.toml").write_text(text.replace("metrics = []", "turns = 2\nmetrics = []"))
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path / "suites"))
    suite = load_suite("mine", data=mmspec(tmp_path / "data", [mmspec_row(0), mmspec_row(1)]))
    assert [(s.sample_id, s.dialog) for s in suite.samples] == [("mmspec_000", ""), ("mmspec_001", "")]
    assert not suite.turns
    with pytest.raises(UsageError, match="turns must be 1, the first turn alone, or left out"):
        load_suite("two", data=tmp_path / "data")


def mmstar_rows() -> Rows:
    return [{"index": n, "question": f"Which colour is {n}?{OPTIONS}\n", "answer": "ABCD"[n], "category": f"c{n % 2}",
             "l2_category": "x", "image": {"bytes": png(n), "path": None}, "meta_info": {"source": "s"}}
            for n in range(4)]  # fmt: skip


@pytest.mark.parametrize("file", ["mmstar.parquet", "val/0000.parquet", "data/val-00000-of-00001.parquet"])
def test_mmstar_as_its_repository_has_it(tmp_path: Path, file: str) -> None:
    write_table(tmp_path / file, mmstar_rows())
    suite = load_suite("mmstar", data=tmp_path)
    assert [s.sample_id for s in suite.samples] == ["0", "1", "2", "3"]
    assert suite.samples[0].prompt == (f"Which colour is 0?{OPTIONS}\n"
                                       "Answer with the option's letter from the given choices directly")  # fmt: skip
    assert (suite.samples[1].references, suite.samples[1].group, dict(suite.variants)) == (
        ("B",), "c1", {"multiple_choice": "mmstar"})  # fmt: skip
    long = load_suite("mmstar-long", data=tmp_path)
    assert long.samples[0].prompt == "Which colour is 0?" and long.metrics == ()


def test_mmstar_from_the_hub_by_its_card(hub: Hub, tmp_path: Path) -> None:
    write_table(tmp_path / "repo" / "mmstar.parquet", mmstar_rows())
    (tmp_path / "repo" / "README.md").write_text(
        "---\nconfigs:\n- config_name: val\n  data_files:\n  - split: val\n    path: mmstar.parquet\n---\n"
    )
    hub.add("Lin-Chen/MMStar", tmp_path / "repo")
    assert len(load_suite("mmstar", data="hf:Lin-Chen/MMStar", limit=2).samples) == 2


@pytest.mark.parametrize(("text", "right"), [
    ("B", 1), ("b.", 1), ("(B) blue", 1), ("Option B", 1), ("The answer is B.", 1), ("Blue", 1), (" \nB", 1),
    ("A", 0), ("The answer: B", 0), ("", 0), ("(", 0), ("It is B", 0),
])  # fmt: skip
def test_mmstar_is_scored_by_its_own_rule(text: str, right: int) -> None:
    """By hand from MMStar's exact_match: only what stands first counts, and a word counts by its first letter."""
    found = multiple_choice.score([text], [("B",)], variant="mmstar")
    assert found.per_sample == [float(right)]
    assert found.parts["unparsed"] == float(text in ("", "("))


def test_the_letter_must_be_one(tmp_path: Path) -> None:
    write_table(tmp_path / "mmstar.parquet", [{**mmstar_rows()[0], "answer": "E"}])
    with pytest.raises(UsageError, match=r"row 0.answer is 'E', not one of A, B, C, D"):
        load_suite("mmstar", data=tmp_path)
