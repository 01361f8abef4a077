"""What is measured of skip sets: what each sub-layer costs, and what a set would draft along the target's texts."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.drafters.layer_skipping import LayerSkipper
from fastvlm_bench.drafts.skip_set import SkipSet
from fastvlm_bench.engine.session import Session
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.checkpoint_settings import unstopped
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.choosing import Choosing
from fastvlm_bench.training.prediction import GAMMAS, STOPS, Advice, Checked, simulate

ATTEMPTS = 12
WARM = 4
"""The first passes of each kind are slower, and not counted."""
LEAST_SHARE = 0.02
"""A draft pass never costs less than this share of a whole one: norms, LM head and the choice of a token remain."""


@dataclass(frozen=True)
class SkipCosts:
    """Seconds. standard_s: one token by the whole target. verify_s[k - 1]: the whole target over k tokens.

    attention_s, mlp_s, layer_s: what a pass of one token saves for each attention, MLP or whole layer that it skips.
    """

    standard_s: float
    attention_s: float
    mlp_s: float
    layer_s: float
    verify_s: list[float]

    def of(self, skip_set: SkipSet) -> PassCosts:
        """The costs of drafting with this set."""
        whole = len(skip_set.whole)
        saved = whole * self.layer_s + (len(skip_set.attention) - whole) * self.attention_s
        saved += (len(skip_set.mlp) - whole) * self.mlp_s
        draft_s = max(self.standard_s - saved, LEAST_SHARE * self.standard_s)
        return PassCosts(self.standard_s, draft_s, self.verify_s)


def measure_skip_costs(target: Target, example: Example) -> tuple[list[SkipSet], SkipCosts]:
    """What the target may skip, and the median seconds of its passes after one prompt, measured in turn."""
    positions, told = max(GAMMAS) + 1, dict[str, Any]()
    counts = sorted({positions, *(2**power for power in range(positions.bit_length()) if 2**power < positions)})
    tokens = (list(example.answer) * positions)[:positions]

    def probe(session: Session, skipper: LayerSkipper) -> None:
        units = skipper.units(session)
        everything = SkipSet.union(units)
        sets = {
            "whole": SkipSet(), "attention": SkipSet(attention=everything.attention - _layers_only(units)),
            "mlp": SkipSet(mlp=everything.mlp - _layers_only(units)), "layer": SkipSet.of_layers(everything.whole),
        }  # fmt: skip
        seconds: dict[Any, list[float]] = {key: [] for key in (*sets, *counts)}
        for attempt in range(WARM + ATTEMPTS):
            for key, skip_set in (*sets.items(), *((count, SkipSet()) for count in counts)):
                ahead = tokens[: key - 1] if isinstance(key, int) else []
                started = session.clock.synchronised()
                outputs = block_pass(session, skipper, skip_set, ahead)
                if key in sets:  # as in a draft: the confidence is looked at
                    torch.softmax(outputs.logits[:, -1].float(), dim=-1).amax(dim=-1).tolist()
                session.choose(outputs.logits)
                took = session.clock.synchronised() - started
                skipper.roll_back(session, skip_set, len(ahead) + 1)
                seconds[key] += [took] if attempt >= WARM else []
        middle = {key: statistics.median(values) for key, values in seconds.items()}

        def saved(key: str, count: int) -> float:
            return max(middle["whole"] - middle[key], 0.0) / count if count else 0.0

        told["units"] = units
        told["costs"] = SkipCosts(
            middle["whole"], saved("attention", len(sets["attention"].attention)), saved("mlp", len(sets["mlp"].mlp)),
            saved("layer", len(sets["layer"].whole)),
            np.interp(range(1, positions + 1), counts, [middle[count] for count in counts]).tolist(),
        )  # fmt: skip

    after_prompt(target, example, positions + 2, probe)
    return told["units"], told["costs"]


def _layers_only(units: Sequence[SkipSet]) -> frozenset[int]:
    return SkipSet.union(unit for unit in units if unit.whole).whole


def along(target: Target, choosing: Choosing, example: Example, sets: Sequence[SkipSet]) -> list[Checked]:
    """What each set would draft along one of the target's texts, in one block after one prefill."""
    answer, found = example.answer, list[Checked]()
    wanted = torch.tensor(answer[1:])
    logits: list[Tensor] = []

    def probe(session: Session, skipper: LayerSkipper) -> None:
        for skip_set in sets:
            outputs = block_pass(session, skipper, skip_set, list(answer[1:-1]))
            skipper.roll_back(session, skip_set, len(answer) - 1)
            logits.append(outputs.logits[0].float().cpu())

    after_prompt(target, example, len(answer) + 2, probe)
    for told in logits:
        chosen = choosing.along(example, told.to(target.device)).cpu()
        sure = torch.softmax(told, dim=-1).amax(dim=-1)
        never = torch.tensor([int(token) in choosing.placeholders for token in chosen])
        sure = torch.where(never, torch.full_like(sure, -1.0), sure)
        found.append(Checked(
            (chosen == wanted).tolist(), sure.tolist(), example.ended, max(example.most - len(answer), 0)
        ))  # fmt: skip
    return found


def advise(texts: Sequence[Checked], costs: PassCosts) -> Advice:
    """The γ and stop_below with the best predicted decode speed-up, where the whole target verifies.

    A round drafts once for each draft and once more where it stops in doubt; then the whole target reads the last
    token and the drafts. The smaller γ on a tie.
    """
    best = None
    for gamma in GAMMAS:
        for stop in STOPS:
            found = simulate(texts, gamma, stop)
            own = (found.drafted + found.doubted) * costs.draft_s
            own += sum(n * costs.verification(positions) for positions, n in found.verified.items())
            speedup = found.tokens * costs.standard_s / own if own else 0.0
            if best is None or speedup > best.speedup:
                best = Advice(gamma, stop, speedup, found.alpha, found.tau)
    assert best is not None
    return best


def block_pass(session: Session, skipper: LayerSkipper, skip_set: SkipSet, ahead: list[int]) -> Any:
    """One pass over the last emitted token and `ahead` with a set skipped; without one, of the whole target."""
    with skipper.skipping(skip_set):
        return session.forward_block([ahead])


def after_prompt(target: Target, example: Example, most: int, probe: Callable[[Session, LayerSkipper], None]) -> None:
    """Let the target read the example's prompt and emit its first token, then call `probe`."""
    clock = Clock(target.device)

    def decode(model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        skipper = LayerSkipper(model)
        with skipper.installed():
            session = Session(model, input_ids, clock=clock, **prepared)
            session.prefill()
            session.record_past()
            probe(session, skipper)
        return session.sequences

    inputs: Mapping[str, Tensor] = example.inputs(target)
    with torch.inference_mode():
        unstopped(target.model)(
            **inputs, max_new_tokens=most, do_sample=False, num_beams=1, custom_generate=decode
        )  # fmt: skip
