"""`sweep --predict-first`: which cells may be the fastest, by the costs of their passes and a few drafted answers.

Each draft decodes a few samples once, with the longest γ and without a stop. That tells for each token of the answers
whether the draft guesses it, and how sure it is. From it the rounds of every γ and threshold are simulated, and priced
with the measured costs of single passes. Nothing of it is reported as a measurement.
"""

from collections.abc import Hashable, Sequence
from statistics import fmean
from typing import Any

from fastvlm_bench.analysis.prediction import PassCosts
from fastvlm_bench.decoding.build import Built
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.engine.drafting import Doubt, Drafts
from fastvlm_bench.engine.measure import seed_of
from fastvlm_bench.errors import UsageError
from fastvlm_bench.machine.failures import FAILURES
from fastvlm_bench.measuring.apart import costs_of_passes, passes_key
from fastvlm_bench.measuring.bench import Prepared
from fastvlm_bench.measuring.runner import Runner
from fastvlm_bench.records.trace import Generation, Round
from fastvlm_bench.suites.suite import Suite
from fastvlm_bench.training.prediction import Checked, simulate

PILOTS = 4
"""Samples of a suite that each draft decodes: its last ones, which the warm-up decodes as well."""
MARGIN = 0.10
"""By how much a cell may be predicted below the best and still be measured: two predictions, each within 5 %."""


class Listening(FastVLM):
    """FastVLM that never stops in doubt, and keeps how sure the draft was of each token that it drafted."""

    def __init__(self, method: FastVLM, gamma: int) -> None:
        super().__init__(method.draft, gamma=gamma, clock=method.clock)
        self.sure: list[list[float]] = []

    def round(self, session: Any) -> list[Round]:
        self.sure.append([])
        return super().round(session)

    def _doubt(self, drafts: Drafts) -> Doubt:
        return self._listen

    def _listen(self, chances: Sequence[float]) -> bool:
        self.sure[-1] += chances
        return False


def promising(
    runner: Runner, suites: Sequence[Suite]
) -> tuple[list[Built], list[dict[str, str]], list[dict[str, Any]]]:
    """(reference and cells to measure, cells left out with the reason, the predicted speed-up of each cell).

    A cell without a prediction, because its passes failed, is measured.
    """
    own = [(built, built.method) for built in runner.methods if isinstance(built.method, FastVLM)]
    if runner.size > 1:
        raise UsageError("--predict-first is for single samples; leave it out, or use --batch-size 1")
    by_suite = [predicted_speedups(runner, suite, own) for suite in suites]
    found = {built.label: fmean(each[built.label] for each in by_suite) for built, _ in own
             if all(built.label in each for each in by_suite)}  # fmt: skip
    best = max(found.values(), default=0.0)
    out = {label: speedup for label, speedup in found.items() if speedup < (1 - MARGIN) * best}
    reasons = [{"label": label, "reason": f"predicted {speedup:.2f}x, and the best cell {best:.2f}x"}
               for label, speedup in out.items()]  # fmt: skip
    predicted = [{"method": label, "decode_speedup": speedup} for label, speedup in found.items()]
    return [built for built in runner.methods if built.label not in out], reasons, predicted


def predicted_speedups(runner: Runner, suite: Suite, own: Sequence[tuple[Built, FastVLM]]) -> dict[str, float]:
    """Label -> predicted decode speed-up on one suite. Methods whose passes fail are left out."""
    model, pilots = runner.target.model, [runner.prepare([sample]) for sample in suite.openings[-PILOTS:]]
    longest = max((method.gamma for _, method in own), default=1)
    costs: dict[tuple[Hashable, bool], PassCosts | None] = {}
    texts: dict[Hashable, list[Checked] | None] = {}
    found = {}
    for built, method in own:
        passes, stops = passes_key(method, model), method.stop_below > 0
        if passes not in texts:
            texts[passes] = listened(runner, suite, method, longest, pilots)
        if (passes, stops) not in costs:
            costs[passes, stops] = costs_of_passes(runner, suite, pilots[-1], method, longest)
        price, known = costs[passes, stops], texts[passes]
        if price is not None and known is not None:
            found[built.label] = simulate(known, method.gamma, method.stop_below).speedup(price)
    return found


def listened(
    runner: Runner, suite: Suite, method: FastVLM, gamma: int, pilots: Sequence[Prepared]
) -> list[Checked] | None:  # fmt: skip
    """What the method's draft guesses along the answers to `pilots`; None where decoding fails."""
    texts = []
    for number, prepared in enumerate(pilots):
        listening = Listening(method, gamma)
        built = Built("predicted", listening, True, None, {})
        try:
            trace = runner.decode(built, suite, prepared, seed=seed_of(runner.seed, suite.name, "predicted", number))
        except FAILURES:
            return None
        texts.append(checked(trace.rows[0], listening.sure, runner.limit(suite)))
    return texts


def checked(row: Generation, sure: Sequence[Sequence[float]], limit: int) -> Checked:
    """The guesses along one decoded text. sure: for each round, the draft's confidence in each token.

    The token that the target adds after a draft that stood to its end was not guessed. It counts as guessed right and
    surely, as those before it were.
    """
    right: list[bool] = []
    confidence: list[float] = []
    for done, told in zip(row.rounds, sure, strict=True):
        right += [True] * done.accepted
        confidence += told[: done.accepted]
        if done.emitted > done.accepted:
            rejected = done.tested > done.accepted
            right.append(not rejected)
            confidence.append(told[done.accepted] if rejected else 1.0)
    ended = row.stop == "eos"
    return Checked(right, confidence, ended, limit - len(row.token_ids) if ended else 0)
