"""The rule of `adaptive`: drafts where drafting pays by the seconds that were seen, and only so far."""

import random

import pytest

from fastvlm_bench.engine.pacing import FIRST, Pacing

PLAIN, DRAFT, VERIFY, POSITION = 1.0, 0.25, 0.9, 0.01
"""Seconds of a plain pass, a draft pass, a verification of one position, and what each further one adds."""


def one_round(pacing: Pacing, before: int, left: int, stands: list[bool], sure: list[float], gamma: int) -> int:
    """A round of the loop, with seconds as above. left: tokens to the answer's end. Returns how many it emitted."""
    if not pacing.drafts(before):
        pacing.plain(PLAIN)
        return 1
    pacing.begin()
    chances: list[float] = []
    while len(chances) < min(gamma, left) and pacing.worth(sure[len(chances)]):
        chances.append(sure[len(chances)])
    accepted = next((i for i in range(len(chances)) if not stands[i]), len(chances))
    whole = accepted == left  # the end itself was drafted: no pass follows it
    passes = len(chances) + (len(chances) < left or not whole)
    emitted = accepted if whole else accepted + 1
    pacing.drafted(before, chances, min(accepted + 1, len(chances)), accepted, emitted, passes, passes * DRAFT,
                   VERIFY + POSITION * passes)  # fmt: skip
    return emitted


def decode(pacing: Pacing, length: int, right: float, dice: random.Random, gamma: int = 16) -> float:
    """Seconds of an answer whose drafts stand with probability `right` each, and are as sure."""
    before, seconds = 1, 0.0
    while before < length:
        stands = [dice.random() < right for _ in range(gamma)]
        before += one_round(pacing, before, length - before, stands, [right] * gamma, gamma)
        seconds += pacing._late[-1][1]
    return seconds


def speedup(length: int, right: float, answers: int, *, late: bool = False, seed: int = 0) -> float:
    """Standard seconds / adaptive seconds over `answers`; late: of the second half alone."""
    pacing, dice, spent, plain = Pacing(32), random.Random(seed), 0.0, 0.0
    for number in range(answers):
        seconds = decode(pacing, length, right, dice)
        if not late or number >= answers // 2:
            spent, plain = spent + seconds, plain + (length - 1) * PLAIN
    return plain / spent


def test_one_token_answers_cost_next_to_nothing() -> None:
    """A drafting round takes 1.16 plain passes there. Only the trials are lost: two, and one in 32."""
    assert 0.99 < speedup(2, 0.95, 400) <= 1.0
    assert 0.99 < speedup(2, 0.95, 400, late=True) <= 1.0


def test_long_answers_are_drafted() -> None:
    """At 0.95 a round gives up to 16 tokens; at 0.3 no γ pays, and little is lost."""
    assert speedup(60, 0.95, 30, late=True) > 2.0
    assert speedup(60, 0.8, 30, late=True) > 1.25
    assert 0.96 < speedup(60, 0.3, 30, late=True) < 1.05


@pytest.mark.parametrize("right", [0.5, 0.7, 0.8, 0.9, 0.97])
def test_near_the_best_fixed_length(right: float) -> None:
    """Within 7 % of the best γ known beforehand, for drafts that are all alike."""

    def fixed(gamma: int) -> float:
        emitted = sum(right**i for i in range(gamma + 1))
        return emitted * PLAIN / ((gamma + 1) * DRAFT + VERIFY + POSITION * (gamma + 1))

    best = max(1.0, *(fixed(gamma) for gamma in range(1, 17)))
    assert speedup(400, right, 12, late=True) > 0.93 * best


def test_a_draft_of_low_confidence_is_left_out_once_it_is_known_to_fail() -> None:
    """Confidences alone say 0.45 and 0.95; in truth the low ones never stand."""
    pacing, dice = Pacing(32), random.Random(1)
    for _ in range(200):
        sure = [0.95 if dice.random() < 0.8 else 0.45 for _ in range(16)]
        one_round(pacing, 70, 500, [chance > 0.5 for chance in sure], sure, 16)
    pacing.begin()
    assert pacing.worth(0.95) and not pacing.worth(0.45)
    assert pacing.worth(0.95), "a draft that was left out is not among those that must stand"


def test_drafting_goes_on_further_where_a_pass_costs_less() -> None:
    def length(seconds: float) -> int:
        pacing = Pacing(32)
        for _ in range(40):
            pacing.plain(PLAIN)
            pacing.drafted(40, [0.85] * 4, 4, 4, 5, 5, 5 * seconds, VERIFY)
            pacing.drafted(40, [0.85] * 4, 3, 2, 3, 5, 5 * seconds, VERIFY)
        pacing.begin()
        return next(n for n in range(100) if not pacing.worth(0.85))

    assert length(0.05) > length(0.2) > length(0.6) >= 0


def test_both_kinds_are_tried_first_and_looked_at_again() -> None:
    pacing = Pacing(8)
    for _ in range(FIRST):
        assert pacing.drafts(1)
        pacing.drafted(1, [0.9], 1, 1, 1, 1, 0.5, 1.0)
    for _ in range(FIRST):
        assert not pacing.drafts(1)
        pacing.plain(1.0)
    decided = [pacing.drafts(1) for _ in range(72)]
    assert decided.count(True) == 4, "a round took 1.5 plain ones: one in 8 · 1.5² tries it again"
    assert pacing.drafts(2), "of rounds further on nothing is known yet"


def test_the_better_kind_is_found_again_when_it_changes() -> None:
    pacing = Pacing(8)
    for _ in range(100):
        if pacing.drafts(1):
            pacing.drafted(1, [0.9], 1, 0, 1, 2, 0.5, 1.0)
        else:
            pacing.plain(1.0)
    assert sum(pacing.drafts(1) for _ in range(32)) < 8
    for _ in range(2000):
        if pacing.drafts(1):
            pacing.drafted(1, [0.9] * 4, 4, 4, 5, 5, 0.5, 1.0)
        else:
            pacing.plain(1.0)
    assert sum(pacing.drafts(1) for _ in range(32)) > 24


def test_a_clock_that_stands_still_stops_nothing() -> None:
    pacing = Pacing(8)
    for _ in range(4):
        pacing.plain(0.0)
        pacing.drafted(1, [0.9], 1, 1, 2, 2, 0.0, 0.0)
    pacing.begin()
    assert not pacing.drafts(1), "nothing says that drafting is faster"
    assert all(pacing.worth(0.9) for _ in range(16))
