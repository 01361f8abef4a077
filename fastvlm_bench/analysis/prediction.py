"""Prices decoding from the costs of single passes, which are measured apart from the samples: the predicted speed-up.

The seconds of the samples are not used. So the prediction cannot follow them: where they are wrong, or the machine
changed between two methods, measured and predicted speed-up part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PassCosts:
    """Seconds of single passes, measured on one machine and target.

    standard_s: one token by the whole target. draft_s: one token by the draft. verify_s[k - 1]: one pass of the layers
    after the exit over k positions.
    """

    standard_s: float
    draft_s: float
    verify_s: Sequence[float]

    def verification(self, positions: int) -> float:
        """Seconds to verify `positions`; beyond the measured numbers, extrapolated from the last two."""
        known = self.verify_s
        if positions <= len(known):
            return known[positions - 1]
        rise = (known[-1] - known[-2]) if len(known) > 1 else 0.0
        return known[-1] + max(rise, 0.0) * (positions - len(known))


def draft_passes(drafted: int, accepted: int, emitted: int) -> int:
    """Passes of the early layers in a round, which is also the number of positions that it verifies.

    One pass for each draft and one for the last of them, whether it went on to draft or stopped in doubt. Only a draft
    that ends with the EOS has no such pass; then all drafts stand and no token of the target follows.
    """
    return drafted + (not (drafted == accepted == emitted))


def predicted_speedup(rounds: Iterable[Sequence[float]], costs: PassCosts) -> float | None:
    """Σ emitted · c_1 / Σ over rounds of (passes · c_d + c_v(passes)); None without a round.

    rounds: as in samples.jsonl: drafted, tested, accepted, emitted, draft_s. One without a draft and without time
    for one is a plain pass of the target, c_1; one that was in doubt at once has run its draft pass.
    """
    tokens, own = 0, 0.0
    for drafted, _, accepted, emitted, *seconds in rounds:
        if not drafted and seconds and not seconds[0]:
            tokens, own = tokens + int(emitted), own + costs.standard_s
            continue
        passes = draft_passes(int(drafted), int(accepted), int(emitted))
        tokens += int(emitted)
        own += passes * costs.draft_s + costs.verification(passes)
    return tokens * costs.standard_s / own if own else None
