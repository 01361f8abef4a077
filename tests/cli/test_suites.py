"""`suites`, `suites show`, `suites check`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suites.conftest import write
from suites.official import MAKE

from fastvlm_bench.suites.suite import suite_names

EMBEDDED = ("coco-caption", "describe", "gqa", "nocaps", "okvqa", "pope", "stories", "visdial-gen", "visdial-turns",
            "vqav2")  # fmt: skip


def test_plain_suites_lists_them(call: Callable[..., Any]) -> None:
    result = call("suites")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines() if line[0] != " "] == suite_names()


@pytest.mark.parametrize("name", suite_names())
def test_show(call: Callable[..., Any], name: str) -> None:
    result = call("suites", "show", name)
    assert result.exit_code == 0 and result.stdout.startswith(f"{name}, version ")
    assert ("of the embedded split: " in result.stdout) == (name in EMBEDDED)
    for word in ("licence", "citation", "(default): ", "split     "):
        assert word in result.stdout


def test_show_an_unknown_suite(refused: Callable[..., str]) -> None:
    assert "did you mean 'docvqa'?" in refused("suites", "show", "docvqua")


@pytest.mark.parametrize("name", [name for name in MAKE if name != "coco-caption"])
def test_check_finds_nothing_in_good_files(call: Callable[..., Any], tmp_path: Path, name: str) -> None:
    MAKE[name](tmp_path)
    result = call("suites", "check", name, "--data", tmp_path)
    assert result.exit_code == 0, result.output
    assert "problem" not in result.stdout and "images decoded" in result.stdout
    assert ("officially it has" in result.stdout) == (name != "jsonl")


def test_check_lists_every_problem_once(call: Callable[..., Any], tmp_path: Path) -> None:
    MAKE["nocaps"](tmp_path)
    (tmp_path / "val" / "00130.jpg").unlink()
    (tmp_path / "val" / "00131.jpg").write_bytes(b"<html>")
    result = call("suites", "check", "nocaps", "--data", tmp_path)
    problems = [line for line in result.stdout.splitlines() if line.startswith("problem: ")]
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert sum("00131.jpg" in line for line in problems) == sum("00130.jpg" in line for line in problems) == 1
    place = f"problem: {tmp_path / 'nocaps_val_4500_captions.json'}: images[0] has image"
    assert f"{place} {tmp_path / 'val' / '00130.jpg'}, which is missing; add it" in problems
    assert "2 problems with the files of 'nocaps'" in result.stderr
    write(tmp_path / "nocaps_val_4500_captions.json", {"images": []})
    result = call("suites", "check", "nocaps", "--data", tmp_path)
    assert result.exit_code == 2 and result.stdout.count("problem: ") == 1 and "is an empty list" in result.stdout


def test_check_an_empty_folder(call: Callable[..., Any], tmp_path: Path) -> None:
    result = call("suites", "check", "pope", "--data", tmp_path, "--split", "random")
    assert result.exit_code == 2 and "it needs annotations/coco_pope_random.json and val2014/" in result.stdout


def test_check_tells_of_odd_line_breaks_with_file_and_place(call: Callable[..., Any], tmp_path: Path) -> None:
    MAKE["flickr30k"](tmp_path)
    result = call("suites", "check", "flickr30k", "--data", tmp_path, "--split", "karpathy-test")
    assert result.exit_code == 0
    told = f"warning: {tmp_path / 'dataset_flickr30k.json'}: images[1].sentences[1].raw (id 10002456) holds CR"
    assert told in result.stdout


def test_show_of_ones_own_files(call: Callable[..., Any], tmp_path: Path) -> None:
    MAKE["visdial-gen"](tmp_path)
    result = call("suites", "show", "visdial", "--data", tmp_path)
    assert result.exit_code == 0 and "sample 185565-1 of the val split" in result.stdout
    assert "option 1: yes 0 (a person's answer)" in result.stdout
