"""`--data hf:OWNER/NAME[@REVISION]`, by the hub's own client and a hub on this machine: what is fetched, and when."""

import socket
from pathlib import Path

import huggingface_hub.constants
import pytest
from suites.as_tables import write_table
from suites.fake_hub import COMMIT, Hub, hub
from suites.official import MAKE
from suites.test_table_suites import cache, essence, mmmu_row

from fastvlm_bench.errors import UsageError
from fastvlm_bench.suites.suite import Suite, load_suite
from suites import as_tables

__all__ = ["cache", "hub"]  # fixtures
VQA = "lmms-lab/VQAv2"
SHARDS = 3


def load(name: str, data: str, **options: object) -> Suite:
    return load_suite(name, data=f"hf:{data}", **options)  # type: ignore[arg-type]


@pytest.fixture
def vqa(hub: Hub, data: Path, tmp_path: Path) -> Path:
    """VQAv2's six questions in three shards, on the hub."""
    rows = as_tables.vqa()(data)
    for shard in range(SHARDS):
        name = f"validation-{shard:05d}-of-{SHARDS:05d}.parquet"
        write_table(tmp_path / "repo" / "data" / name, rows[2 * shard : 2 * shard + 2])
    hub.add(VQA, tmp_path / "repo")
    return tmp_path / "repo"


def test_the_hub_gives_what_the_official_files_give(hub: Hub, vqa: Path, data: Path) -> None:
    found = load("vqav2", VQA)
    assert essence(found) == essence(load_suite("vqav2", split="val2014", data=data))
    assert found.source == f"hf:{VQA}@{COMMIT}", "the record names the bytes"
    assert found.sha256 == load_suite("vqav2", data=vqa).sha256, "wherever the table lies"
    assert len(hub.fetched) == SHARDS


@pytest.mark.parametrize(("limit", "shards"), [(1, 1), (2, 1), (3, 2), (None, SHARDS)])
def test_a_limit_fetches_no_more_than_it_needs(hub: Hub, vqa: Path, limit: int | None, shards: int) -> None:
    found = load("vqav2", VQA, limit=limit)
    assert len(found.samples) == (limit or 6)
    assert sorted(hub.fetched) == [f"data/validation-{n:05d}-of-{SHARDS:05d}.parquet" for n in range(shards)]


def test_cider_says_by_which_samples_it_weighs(hub: Hub, data: Path, tmp_path: Path) -> None:
    rows = as_tables.coco("2014")(data)
    for shard, part in enumerate((rows[:2], rows[2:])):
        write_table(tmp_path / "repo" / "data" / f"val-{shard:05d}-of-00002.parquet", part)
    hub.add("lmms-lab/COCO-Caption", tmp_path / "repo")
    limited, whole = (load("coco-caption", "lmms-lab/COCO-Caption", limit=n) for n in (1, None))
    assert "not by the whole split" in limited.note and limited.document_images == 2
    assert "not by the whole split" not in whole.note and whole.document_images == 3
    assert load_suite("coco-caption", data=tmp_path / "repo", limit=1).document_images == 3, "a folder has all"


def test_offline_takes_what_is_cached_and_asks_nothing(hub: Hub, vqa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"not in the hub's cache, and with --offline .* cannot be fetched"):
        load("vqav2", VQA, offline=True)
    online = load("vqav2", VQA, limit=2)
    asked = hub.asked
    assert essence(load("vqav2", VQA, limit=2, offline=True)) == essence(online)
    assert load("vqav2", f"{VQA}@{COMMIT}", limit=2, offline=True).source == online.source
    with pytest.raises(UsageError, match=r"data/validation-00001-of-00003.parquet is missing; .*--limit"):
        load("vqav2", VQA, offline=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert load("vqav2", VQA, limit=2).source == online.source
    assert hub.asked == asked


def test_a_hub_that_does_not_answer_leaves_the_cache(hub: Hub, vqa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = load("vqav2", VQA, limit=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr("fastvlm_bench.suites.hub_data.HUB_TIMEOUT_S", 0.2)
    assert essence(load("vqav2", VQA, limit=2)) == essence(online)
    with pytest.raises(UsageError, match=r"as the hub does not answer it cannot be fetched"):
        load("vqav2", "lmms-lab/other")


@pytest.mark.parametrize(("given", "words"), [
    ("lmms-lab/VQAv2@nope", "no revision 'nope'"),
    ("lmms-lab/none", "the hub has no public data set 'lmms-lab/none'"),
    ("lmms-lab/secret", "is gated: accept its terms on the hub, then log in with `hf auth login`"),
    ("VQAv2", "as hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
    ("a/b/c", "as hf:OWNER/NAME or"),
    ("lmms-lab/VQAv2@", "as hf:OWNER/NAME or"),
])  # fmt: skip
def test_what_the_hub_refuses_is_one_line(hub: Hub, vqa: Path, given: str, words: str) -> None:
    hub.sets["lmms-lab/secret"] = {}
    hub.gated.add("lmms-lab/secret")
    with pytest.raises(UsageError) as error:
        load("vqav2", given)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_another_data_set_says_what_was_looked_for(hub: Hub, vqa: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no split of suite 'pope'; looked for .*of lmms-lab/POPE"):
        load("pope", VQA)
    with pytest.raises(UsageError, match=r"has no rows default/test \| Full/random; split 'random' needs"):
        load("pope", VQA, split="random")
    with pytest.raises(UsageError, match=r"holds no split of suite 'visdial-gen'; looked for .*visdial_1.0_val.json"):
        load("visdial-gen", VQA)


def test_the_two_years_of_coco_are_told_apart(hub: Hub, data: Path, tmp_path: Path) -> None:
    """Their tables look alike; the owner's name may be another, and a folder any."""
    for year, name in (("2014", "COCO-Caption"), ("2017", "COCO-Caption2017")):
        write_table(tmp_path / name / "data" / "val-00000-of-00001.parquet", as_tables.coco(year)(data))
        hub.add(f"elsewhere/{name}", tmp_path / name)
    assert load("coco-caption", "elsewhere/COCO-Caption").split == "val2014"
    assert load("coco-caption", "elsewhere/COCO-Caption2017").split == "val2017"
    (tmp_path / "COCO-Caption2017").rename(tmp_path / "some folder")
    assert load_suite("coco-caption", data=tmp_path / "some folder").split == "val2017"


def test_the_card_says_which_files_a_split_has(hub: Hub, tmp_path: Path) -> None:
    """As MMMU/MMMU's does, with a config for each subject; files of another name count only because of it."""
    for place in ("Art", "Biology"):
        write_table(tmp_path / "repo" / place / "part.parquet", [mmmu_row(id=f"validation_{place}_1")])
        write_table(tmp_path / "repo" / place / "dev.parquet", [mmmu_row(id=f"dev_{place}_1")])
    configs = "".join(f"- config_name: {place}\n  data_files:\n  - split: dev\n    path: {place}/dev*\n"
                      f"  - split: validation\n    path: {place}/part*\n" for place in ("Art", "Biology"))  # fmt: skip
    (tmp_path / "repo" / "README.md").write_text(f"---\nlicence: x\nconfigs:\n{configs}---\n# MMMU\n")
    hub.add("MMMU/MMMU", tmp_path / "repo")
    found = load("mmmu", "MMMU/MMMU")
    assert [s.sample_id for s in found.samples] == ["validation_Art_1", "validation_Biology_1"]


def test_official_files_in_a_repository(hub: Hub, tmp_path: Path) -> None:
    """A repository that holds the official files themselves: the annotations, and the images of the first samples."""
    MAKE["mm-vet"](tmp_path / "repo")
    MAKE["llava-bench"](tmp_path / "repo")
    hub.add("someone/files", tmp_path / "repo")
    assert essence(load("mm-vet", "someone/files", limit=1)) == essence(load_suite("mm-vet", data=tmp_path / "repo"))
    assert sorted(hub.fetched) == ["images/v1_0.png", "mm-vet.json"]
