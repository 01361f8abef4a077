"""results/families.md is what its command writes, and `models` claims what it holds: no more, no less."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from families.builders import FAMILIES as BUILT
from families.proof import Proof
from families.proof_page import environment, keep, render

from fastvlm_bench.models.families import FAMILIES

PAGE = Path(__file__).parents[2] / "results/families.md"
ROWS = {
    "paligemma 1, 2": ("paligemma", "paligemma2"), "blip2": ("blip2", "blip2_t5"),
    "instructblip": ("instructblip", "instructblip_t5"),
}  # fmt: skip
"""Family of `models` -> the families of the proofs, where their names differ."""


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))


def test_the_page_is_made_of_the_kept_proofs(known: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == render(known)


def test_every_family_that_is_called_proven_is(known: dict[str, Any]) -> None:
    told = {row: family for family in FAMILIES for row in ROWS.get(family.name, (family.name,))}
    for row, family in told.items():
        if family.status == "refused" or (family.status == "in part" and row not in BUILT):
            assert row not in known
            continue
        proof = known[row]
        assert proof["source"] == "folder" and not proof["differing"], f"{row}: through its own processor, all equal"
        assert proof["accepted"] > 50 and proof["rejected"] > 20 and proof["distinct"] >= 8
        assert "violation" not in proof["half"]["speculative"] | proof["half"]["control"], row
    assert known.keys() - {"tiny"} == BUILT.keys() <= told.keys()


def proof(name: str, source: str, distinct: int) -> Proof:
    return Proof(name, source, 5, "5 Dynamic", "template", 24, distinct, 10, heads=["mlp 1-4"])


def test_a_proof_through_the_processor_is_kept(tmp_path: Path) -> None:
    page, here = tmp_path / "families.md", environment()
    elsewhere = {**here, "torchvision": "9.9"}
    keep(page, [proof("pixtral", "folder", 11)], elsewhere)
    keep(page, [proof("llava", "folder", 12), proof("pixtral", "tensors (torchvision missing)", 13)], here)
    rows = json.loads(page.with_suffix(".json").read_text())
    assert list(rows) == ["llava", "pixtral"] and rows["pixtral"]["distinct"] == 11
    assert rows["pixtral"]["made_with"] == elsewhere and rows["llava"]["made_with"] == here
    assert rows["llava"] == {**asdict(proof("llava", "folder", 12)), "made_with": here}
    text = page.read_text()
    assert "torchvision 9.9" in text and "| llava | folder | a |" in text and "| pixtral | folder | b |" in text
    keep(page, [proof("pixtral", "folder", 14)], here)
    assert "torchvision 9.9" not in page.read_text()
