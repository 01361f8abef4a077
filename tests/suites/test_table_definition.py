"""What a split's table may say: each key of its kind, or a line that names the key and the kind."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.catalogue import suites_folder
from fastvlm_bench.suites.definition import read_definition
from fastvlm_bench.suites.table_definition import LISTS, Table, parse_table

GOOD: dict[str, Any] = {
    "rows": "a/b", "id": "{id}", "image": ["image", "picture"], "repository": "someone/set", "image_id": "{id:coco}",
    "question": "{question}", "group": "{kind}", "references": "answers", "answers": 10, "allowed": ["a", "b"],
    "choices": "options", "answer": "answer", "context": "hint", "one_image": True, "all_images": True,
    "where": {"split": "test"}, "join": {"rows": "c/d", "id": "id", "key": "image_id"},
}  # fmt: skip
ODD = (0, 1.5, -3, "", True, [], [1], {}, {"a": 1}, float("nan"), ["a", ["b"]], {"rows": "x"})


def test_every_key_is_here() -> None:
    assert set(GOOD) == {item.name for item in fields(Table)} and isinstance(parse_table(GOOD), Table)


@pytest.mark.parametrize("key", GOOD)
def test_a_value_of_another_kind_is_refused_by_name(key: str) -> None:
    kind = type(GOOD[key])
    for value in ODD:
        found = parse_table({**GOOD, key: value})
        if isinstance(found, str):
            assert key in found and "\n" not in found
            continue
        assert isinstance(value, kind) or (key in LISTS and isinstance(value, str)), f"{key} = {value!r} was taken"


def test_a_join_needs_its_three_texts() -> None:
    for join in ({}, {"rows": "a"}, {**GOOD["join"], "more": "x"}, {**GOOD["join"], "id": 1}, "rows"):
        assert "join" in str(parse_table({**GOOD, "join": join}))


@pytest.mark.parametrize("like", [[], {}, 3, "nothing", ["val2014"]])
def test_like_names_a_split_that_has_a_table(like: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVLM_BENCH_SUITES", str(tmp_path))
    shown = (suites_folder() / "vqav2.toml").read_text(encoding="utf-8")
    toml = json.dumps(like).replace("{}", "{ }")
    (tmp_path / "mine.toml").write_text(shown.replace('rows = "default/validation"', f"like = {toml}"))
    with pytest.raises(UsageError, match=r"splits.val2014.table is like .*, a split without a table"):
        read_definition("mine")
