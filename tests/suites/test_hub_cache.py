"""What the hub's cache is taken for where the hub cannot be asked: for the whole data set only if that is known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from covering import covering
from suites.as_tables import write_table
from suites.fake_hub import COMMIT, Hub, hub
from suites.test_hub_data import load
from suites.test_table_suites import mmmu_row

from fastvlm_bench.errors import UsageError
from fastvlm_bench.scoring.score import score_file
from fastvlm_bench.suites.files import cache_folder

__all__ = ["hub"]  # a fixture
MMMU = "lmms-lab/MMMU"
SUBJECTS = ("Art", "Biology", "Chemistry")


@pytest.fixture
def subjects(hub: Hub, tmp_path: Path) -> Hub:
    """MMMU, in which each subject is a series of one file: no name tells that another is absent."""
    for name in SUBJECTS:
        row = mmmu_row(id=f"validation_{name}_1")
        write_table(tmp_path / "repo" / name / "validation-00000-of-00001.parquet", [row])
    hub.add(MMMU, tmp_path / "repo")
    return hub


def offline(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def status(code: int) -> Callable[[Hub, pytest.MonkeyPatch], None]:
    def refuse(hub: Hub, _: pytest.MonkeyPatch) -> None:
        hub.broken = code

    return refuse


def gone(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


WAYS = [offline, gone, status(429), status(500), status(403)]
NAMES = ["offline", "gone", "429", "500", "403"]


def forget_files(tmp_path: Path, *names: str) -> None:
    """Take files out of the hub's cache, as if they had never been fetched."""
    (snapshot,) = (tmp_path / "hub-cache").glob("datasets--*/snapshots/*")
    for name in names:
        shutil.rmtree(snapshot / name)


@pytest.mark.parametrize("way", covering(WAYS, [WAYS[0], WAYS[2]]), ids=NAMES)
def test_a_cache_of_unknown_extent_is_refused_or_told(
    subjects: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Hub, pytest.MonkeyPatch], None]
) -> None:
    """As another tool leaves it, which fetched one subject and kept no list."""
    load("mmmu", MMMU)
    shutil.rmtree(cache_folder("listings"))
    forget_files(tmp_path, "Biology", "Chemistry")
    way(subjects, monkeypatch)
    with pytest.raises(UsageError, match=r"may hold only a part of data set 'lmms-lab/MMMU'.*--limit"):
        load("mmmu", MMMU)
    found = load("mmmu", MMMU, limit=3)
    assert [s.sample_id for s in found.samples] == ["validation_Art_1"]
    assert "partial: of lmms-lab/MMMU only what was in the hub's cache was read" in found.note


@pytest.mark.parametrize("way", covering(WAYS, [WAYS[0], WAYS[2]]), ids=NAMES)
def test_a_kept_list_names_what_is_absent(
    subjects: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Hub, pytest.MonkeyPatch], None]
) -> None:
    online = load("mmmu", MMMU)
    with monkeypatch.context() as patch:
        way(subjects, patch)
        again = load("mmmu", MMMU)
        assert again.samples == online.samples and again.source == online.source
        assert ("the hub " in again.note) == (way is not offline) and "partial" not in again.note
    forget_files(tmp_path, "Chemistry")
    offline(subjects, monkeypatch)
    with pytest.raises(UsageError, match="Chemistry/validation-00000-of-00001.parquet is missing; it is not in"):
        load("mmmu", MMMU)


def test_the_status_is_in_the_note(subjects: Hub) -> None:
    load("mmmu", MMMU)
    subjects.broken = 429
    assert "the hub answers with HTTP 429: its cache was read" in load("mmmu", MMMU).note
    with pytest.raises(UsageError, match=r"not in the hub's cache, and as the hub answers with HTTP 429 it cannot"):
        load("mmmu", "lmms-lab/other")


def test_scores_against_the_cache_say_so(subjects: Hub, tmp_path: Path) -> None:
    answers = {sample.sample_id: sample.references[0] for sample in load("mmmu", MMMU).samples}
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    assert score_file("mmmu", Path(f"hf:{MMMU}"), tmp_path / "answers.json").notes == ()
    subjects.broken = 500
    assert "HTTP 500" in " ".join(score_file("mmmu", Path(f"hf:{MMMU}"), tmp_path / "answers.json").notes)


@pytest.mark.parametrize("content", covering(["", "[", "{}", "[1]", "null"], ["[", "[1]"]))
def test_a_damaged_list_counts_as_none(subjects: Hub, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    load("mmmu", MMMU)
    (kept,) = cache_folder("listings").iterdir()
    kept.write_text(content)
    offline(subjects, monkeypatch)
    with pytest.raises(UsageError, match="may hold only a part"):
        load("mmmu", MMMU)


def test_a_list_that_cannot_be_kept_hinders_no_run(subjects: Hub) -> None:
    cache_folder("").mkdir(parents=True)
    cache_folder("listings").write_text("in the way")
    assert len(load("mmmu", MMMU).samples) == len(SUBJECTS)


@pytest.mark.parametrize("revision", ["", "@main"])
def test_files_of_another_commit_than_the_listing_are_refused(subjects: Hub, revision: str) -> None:
    """The record names the listing's commit, so no other bytes may be read."""
    subjects.commit = COMMIT[::-1]
    with pytest.raises(UsageError, match=f"came from another commit, {subjects.commit}: the data set changed"):
        load("mmmu", f"{MMMU}{revision}")


@pytest.mark.parametrize(("error", "words"), [
    (OSError(), "OSError"), (OSError(28, "No space left on device"), "No space left"), (RuntimeError("a\nb"), "a b"),
    (ValueError("Invalid pointer path"), "Invalid pointer path"), (type("ReadError", (Exception,), {})(), "ReadError"),
])  # fmt: skip
def test_whatever_ends_a_download_is_one_line(
    subjects: Hub, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """The exceptions of HTTP clients have no common base, and may have no text."""

    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UsageError, match=rf"parquet cannot be fetched \(.*{words}.*\); what came is kept") as told:
        load("mmmu", MMMU)
    assert "\n" not in str(told.value)
