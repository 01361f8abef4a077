"""Self-drafts that skip sub-layers, on many families: the target's own output, or a refusal in one line."""

from typing import Any

import pytest
from covering import covering
from families.builders import FAMILIES, build, vary
from families.others import gemma4
from families.proof import decode

from fastvlm_bench.decoding.clasp import Clasp
from fastvlm_bench.decoding.draft_verify import DraftVerify
from fastvlm_bench.decoding.swift import Swift
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import UsageError

COUNT = 20
FEW = ("qwen3_vl", "gemma3", "blip2_t5", "qwen3_5")
"""DeepStack and M-RoPE; sliding windows; an encoder-decoder; recurrent layers."""
CLASP_REFUSES = {
    "blip2_t5", "instructblip_t5", "florence2", "mllama", "lfm2_vl", "qwen3_5", "qwen3_5_moe", "minicpmv4_6",
    "nemotron_h_omni", "glm5_next", "lfm3_vl", "inkling",
}  # fmt: skip


class EveryUnit(DraftVerify):
    """Skips one unit after another, another one each round, then all of them."""

    def __init__(self) -> None:
        super().__init__(SkipSet(), gamma=3)
        self.turn = 0
        self.skipped: set[SkipSet] = set()

    def skip_set(self, session: Session) -> SkipSet:
        units = self.skipper.units(session)
        self.turn += 1
        chosen = [*units, SkipSet.union(units)][self.turn % (len(units) + 1)]
        self.skipped.add(chosen)
        return chosen


def prove(name: str) -> None:
    model, inputs, expected = build(name, COUNT)
    every = EveryUnit()
    assert decode(model, inputs, every, COUNT) == expected
    assert len(every.skipped) > 1
    rounds = every.last.rounds if every.last else []
    assert sum(r.accepted for r in rounds) > 0 and sum(r.tested - r.accepted for r in rounds) > 0
    assert decode(model, inputs, Swift(gamma=3, skip=0.3, share=0.9), COUNT) == expected
    method: Any = Clasp(gamma=3, skip=0.3, every=1)
    if name in CLASP_REFUSES:
        with pytest.raises(UsageError, match="clasp cannot run the layers") as refused:
            decode(model, inputs, method, COUNT)
        assert "\n" not in str(refused.value)
    else:
        assert decode(model, inputs, method, COUNT) == expected


@pytest.mark.slow  # in the default run, test_skip_drafting.py skips layers of a plain decoder
@pytest.mark.parametrize("name", FEW)
def test_a_few_families(name: str) -> None:
    prove(name)


@pytest.mark.parametrize("shared", covering([2, 3], [2]))
def test_layers_whose_keys_and_values_others_use_always_attend(shared: int) -> None:
    model, inputs = gemma4(shared)
    expected, every = vary(model, inputs, COUNT), EveryUnit()
    assert decode(model, inputs, every, COUNT) == expected
    kinds = model.config.text_config.layer_types
    own = len(kinds) - shared
    donors = {max(i for i in range(own) if kinds[i] == kind) for kind in set(kinds[own:])}
    assert donors and not donors & SkipSet.union(every.skipped).attention
    with pytest.raises(UsageError, match="share keys and values"):
        decode(model, inputs, Clasp(), COUNT)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in FEW])
def test_every_family(name: str) -> None:
    prove(name)
