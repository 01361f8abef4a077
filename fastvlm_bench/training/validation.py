"""Validation: a draft's acceptance on held-out text, and the decode speed-up that this promises on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.models.load import Target
from fastvlm_bench.training.answers import Example
from fastvlm_bench.training.prediction import Outlook, advise, simulate, together
from fastvlm_bench.training.trainer import HeadTrainer

GAMMA, STOP_BELOW = 10, 0.5
LOOPED = 16
"""How many held-out texts are really decoded with a head that recurs, whose guesses depend on its own output."""


@dataclass
class Validated:
    """The result of one recipe at one validation.

    alpha, tau: at γ 10 without a confidence stop, over all suites; by_suite: α of each suite. by_position: the chance
    that the i-th token of a draft stands if those before it did. speedup: the predicted decode speed-up with `gamma`
    and `stop_below`, which are the best of the grid. counts: (accepted, tested) behind
    by_position, of so many `rounds` that emitted `tokens`.
    """

    alpha: float
    tau: float
    by_position: list[float]
    speedup: float
    gamma: int
    stop_below: float
    by_suite: dict[str, float] = field(default_factory=dict)
    counts: list[list[int]] = field(default_factory=list)
    rounds: int = 0
    tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def validate(trainer: HeadTrainer, held_out: Sequence[Example], costs: Mapping[str, PassCosts]) -> dict[str, Validated]:
    """Recipe -> its result on the held-out examples. costs: recipe -> the costs of its exit and head."""
    checked, found = trainer.check(held_out), {}
    for student in trainer.students:
        name, price = student.name, costs[student.name]
        texts = checked[name]
        suites = [example.sample.sample_id.partition("/")[0] for example in held_out]
        if student.head.recurs:
            draft = trainer.draft(student)
            each = max(LOOPED // len(set(suites)), 1)
            few = {s: [e for e, own in zip(held_out, suites, strict=True) if own == s][:each] for s in suites}
            played = {
                stop: {s: _looped(trainer.target, draft, few[s], stop) for s in few} for stop in (0.0, STOP_BELOW)
            }
            both = {stop: together(by_suite.values()) for stop, by_suite in played.items()}
            stop = max(both, key=lambda stop: both[stop].speedup(price))
            found[name] = Validated(
                both[0.0].alpha, both[0.0].tau, both[0.0].alpha_by_position, both[stop].speedup(price), GAMMA, stop,
                {s: outlook.alpha for s, outlook in played[0.0].items()}, *_counted(both[0.0]),
            )  # fmt: skip
            continue
        outlook, best = simulate(texts, GAMMA, 0.0), advise(texts, price, must_draft=True)
        by_suite = {
            suite: simulate([t for t, own in zip(texts, suites, strict=True) if own == suite], GAMMA, 0.0).alpha
            for suite in dict.fromkeys(suites)
        }
        found[name] = Validated(
            outlook.alpha, outlook.tau, outlook.alpha_by_position, best.speedup, best.gamma, best.stop_below, by_suite,
            *_counted(outlook),
        )  # fmt: skip
    return found


def _counted(outlook: Outlook) -> tuple[list[list[int]], int, int]:
    """The counts behind an outlook's rates: (accepted, tested) by place, rounds, tokens."""
    return [list(place) for place in outlook.by_position], outlook.rounds, outlook.tokens


def _looped(target: Target, draft: Draft, examples: Sequence[Example], stop_below: float) -> Outlook:
    """Decode some texts with the loop itself, and count its rounds as a simulation would."""
    method = FastVLM(draft, gamma=GAMMA, stop_below=stop_below)
    found = Outlook(by_position=[[0, 0] for _ in range(GAMMA)])
    for example in examples:
        with torch.inference_mode():
            target.model.generate(
                **example.inputs(target), max_new_tokens=example.most, do_sample=False, num_beams=1,
                custom_generate=method,
            )  # fmt: skip
        assert method.last is not None
        for number, r in enumerate(method.last.rounds):
            ended = number == len(method.last.rounds) - 1 and method.last.stop == "eos"
            positions = r.drafted + (not (ended and r.accepted == r.drafted and r.emitted == r.accepted))
            found.tokens += r.emitted
            found.rounds += 1
            found.drafted += r.drafted
            found.tested += r.tested
            found.accepted += r.accepted
            found.passes += positions
            found.verified[positions] = found.verified.get(positions, 0) + 1
            for place in range(r.tested):
                found.by_position[place][0] += place < r.accepted
                found.by_position[place][1] += 1
    return found
