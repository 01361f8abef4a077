"""The families in bfloat16: what verifying in blocks changes, beside what rounding changes in standard decoding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from families.proof import COUNT, GAMMAS, Scripted, decode
from targets import read_back

from fastvlm_bench.checks.losslessness import judge_output
from fastvlm_bench.checks.rounding import ULPS, ulp
from fastvlm_bench.checks.self_check import self_check
from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.layers import decoder_layers


@dataclass
class Half:
    """Counts of outputs by outcome, and of positions. Differences are relative to the largest logit.

    speculative: drafts that are right about 7 times in 10, at every exit and γ. control: drafts of the whole target,
    so that all that differs from standard decoding is rounding (`decoding/control.py`), at the same γ.
    turned: positions where a pass over the whole answer chooses another token than passes of one token, on one prefix.
    close: positions whose two largest logits lie within two units in the last place, where a token may turn.
    """

    speculative: dict[str, int]
    control: dict[str, int]
    positions: int = 0
    turned: int = 0
    close: int = 0
    block_difference: float = 0.0
    exit_difference: float = 0.0
    refused: int = 0


def measure_half(model: Any, prompts: list[dict[str, Any]], wanted: Sequence[int] | None = None) -> Half:
    """Decode each prompt in the model's half precision, at the exits `wanted`, or at all.

    Exits that the self-check refuses in that precision are only counted, as `refused`.
    """
    found = Half({}, {})
    exits = []
    for exit_layer in wanted or range(1, len(decoder_layers(model))):
        try:
            found.exit_difference = max(found.exit_difference, self_check(model, prompts[0], exit_layer).difference)
            exits.append(exit_layer)
        except UsageError:
            found.refused += 1

    def judge(counts: dict[str, int], inputs: dict[str, Any], method: Any, reference: list[int]) -> None:
        tokens = decode(model, inputs, method)
        passes = [done.emitted for done in method.last.rounds]
        outcome = judge_output(model, inputs, tokens, reference, limit=COUNT, passes=passes)["outcome"]
        counts[outcome] = counts.get(outcome, 0) + 1

    for inputs in prompts:
        reference = decode(model, inputs, Standard())
        for gamma in GAMMAS:
            judge(found.control, inputs, Control(gamma=gamma), reference)
            for exit_layer in exits:
                judge(found.speculative, inputs, Scripted(reference, exit_layer, gamma=gamma), reference)
        if len(reference) > 1:
            _rescore(model, inputs, reference, found)
    return found


def trained() -> Half:
    """The same for the embedded model. It is trained, so it shows how much random weights exaggerate."""
    from fastvlm_bench.models.load import load_target
    from fastvlm_bench.suites.suite import load_suite, open_image

    target = load_target("tiny", device="cpu", dtype="bfloat16")
    samples = [sample for suite in ("coco-caption", "describe") for sample in load_suite(suite, limit=2).samples]
    return measure_half(target.model, [target.encode(open_image(s), s.prompt) for s in samples], (1, 2, 4, 8, 16))


def _rescore(model: Any, inputs: dict[str, Any], tokens: list[int], found: Half) -> None:
    """Compare standard decoding with itself: all layers, the same prefix, one token at a time and as one block."""
    single, block = (read_back(model, inputs, list(tokens), size) for size in (1, len(tokens)))
    top = single.topk(2, dim=-1).values
    found.positions += len(top)
    found.turned += int((single.argmax(-1) != block.argmax(-1)).sum())
    found.close += sum(float(a - b) <= ULPS * ulp(float(a), model.dtype) for a, b in top)
    difference = (single - block).abs().max() / single.abs().max().clamp_min(1e-6)
    found.block_difference = max(found.block_difference, float(difference))
