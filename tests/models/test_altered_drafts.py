"""A draft whose weights or manifest were altered after it was saved is refused, whatever bit it is."""

import json
import random
import shutil
from pathlib import Path

import pytest

from fastvlm_bench.drafts.imitation_head import WEIGHTS, Draft
from fastvlm_bench.drafts.manifest import MANIFEST, OPEN
from fastvlm_bench.errors import BenchError, CorruptRecord
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.names import default_drafts


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target("tiny", device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    drafts = default_drafts("tiny")
    assert drafts is not None
    return Path(shutil.copytree(drafts / "mlp-exit2", tmp_path / "draft"))


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_no_flipped_bit_loads(target: Target, folder: Path, name: str) -> None:
    whole, source = (folder / name).read_bytes(), random.Random(name)
    untouched = json.loads((folder / MANIFEST).read_bytes())
    for _ in range(40):
        flipped = bytearray(whole)
        flipped[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        (folder / name).write_bytes(flipped)
        try:
            Draft.load(folder, target.model)
        except BenchError as error:
            assert str(folder) in str(error)
        else:  # a space within the manifest, or what may be set by hand
            assert name == MANIFEST
            told = json.loads(flipped)
            assert {key for key in told | untouched if told.get(key) != untouched.get(key)} <= set(OPEN)


def test_one_weight_is_named_with_exit_code_6(target: Target, folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(CorruptRecord, match=r"manifest\.json and head\.safetensors were altered") as caught:
        Draft.load(folder, target.model)
    assert caught.value.exit_code == 6


def test_what_was_saved_loads_and_so_do_older_drafts_without_a_checksum(target: Target, folder: Path) -> None:
    draft = Draft.load(folder, target.model)
    draft.save(folder / "again")
    assert Draft.load(folder / "again", target.model).manifest == draft.manifest
    fields = json.loads((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(json.dumps({name: fields[name] for name in fields if name != "checksum"}))
    Draft.load(folder, target.model)


def test_what_is_set_after_training_may_be_set_by_hand(target: Target, folder: Path) -> None:
    fields = json.loads((folder / MANIFEST).read_bytes())
    changed = {"default": not fields.get("default", False), "advice": {"gamma": 3}, "tuned": {"suite": "describe"}}
    (folder / MANIFEST).write_text(json.dumps(fields | changed))
    assert Draft.load(folder, target.model).manifest.advice == {"gamma": 3}
    for name in set(fields) - set(OPEN):
        (folder / MANIFEST).write_text(json.dumps({**fields, name: "x"}))
        with pytest.raises(BenchError):
            Draft.load(folder, target.model)
