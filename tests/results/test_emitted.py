"""A line told token by token: kinds, texts, seconds and the speed-up so far, by hand-computed examples."""

from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_bench.analysis.emitted import (
    ACCEPTED,
    DRAFTED,
    NOT_EMITTED,
    OWN,
    PREFILL,
    REJECTED,
    UNTESTED,
    emitted_rounds,
    running_speedup,
)  # fmt: skip

LINE: dict[str, Any] = {
    "token_ids": [7, 8, 9, 10, 11, 2], "text": "It is a cat.", "token_chars": [2, 3, 2, 4, 1, 0], "ttft_s": 0.5,
    "decode_s": 0.4, "rounds": [[3, 2, 1, 2, 0.01, 0.09], [3, 3, 3, 3, 0.1, 0.1]],
    "rejected_ids": [[30, 31], []], "rejected_pieces": [[" the", " dog"], []],
}  # fmt: skip
REFERENCE = {"token_ids": [7, 8, 9, 10, 11, 2], "decode_s": 1.0}


def test_kinds_texts_and_order() -> None:
    prefill, first, second = emitted_rounds(LINE)
    assert [(t.kind, t.token_id, t.text) for t in prefill.tokens] == [(PREFILL, 7, "It")]
    assert [(t.kind, t.token_id, t.text) for t in first.tokens] == [
        (ACCEPTED, 8, " is"), (REJECTED, 30, " the"), (UNTESTED, 31, " dog"), (OWN, 9, " a"),
    ]  # fmt: skip
    # The last round's three drafts stand and the third ends the output: no token of the target's own.
    assert [(t.kind, t.text) for t in second.tokens] == [(ACCEPTED, " cat"), (ACCEPTED, "."), (ACCEPTED, "")]
    assert [e.number for e in (prefill, first, second)] == [0, 1, 2] and first.complete and second.complete


def test_seconds_add_up_and_the_speedup_runs() -> None:
    prefill, first, second = emitted_rounds(LINE)
    assert prefill.seconds == 0.5 and prefill.decode_s == 0
    assert first.seconds == pytest.approx(0.4 / 3) and second.decode_s == pytest.approx(0.4)
    assert running_speedup(prefill, REFERENCE) is None
    assert running_speedup(first, REFERENCE) == pytest.approx(2 * 0.2 / (0.4 / 3))
    assert running_speedup(second, REFERENCE) == pytest.approx(1.0 / 0.4)  # the same tokens: the decode speed-up


@pytest.mark.parametrize(
    "reference", [None, {"token_ids": [7], "decode_s": 0.0}, {"token_ids": None, "decode_s": None}]
)
def test_no_reference_to_compare_with(reference: Any) -> None:
    assert running_speedup(emitted_rounds(LINE)[-1], reference) is None


def test_an_older_record_says_what_it_has() -> None:
    old = {key: value for key, value in LINE.items() if key not in ("token_chars", "rejected_ids", "rejected_pieces")}
    _, first, second = emitted_rounds(old)
    assert [(t.kind, t.text) for t in first.tokens] == [(ACCEPTED, None), (OWN, None)]
    assert not first.complete and second.complete


def test_drafts_that_are_never_tested() -> None:
    line = {**LINE, "rounds": [[1, 0, 0, 1, 0.1, 0.0]] * 5, "rejected_ids": [[]] * 5, "rejected_pieces": [[]] * 5}
    rounds = emitted_rounds(line)
    assert [t.kind for done in rounds for t in done.tokens] == [PREFILL, *[DRAFTED] * 5]
    assert all(done.complete for done in rounds)


def test_rounds_without_seconds_share_the_whole_equally() -> None:
    line = {**LINE, "rounds": [[*counts[:4], 0.0, 0.0] for counts in LINE["rounds"]]}
    assert [done.seconds for done in emitted_rounds(line)[1:]] == [0.2, 0.2]


@pytest.mark.parametrize("label", ["standard", "fastvlm"])
def test_every_token_of_the_output_is_told_once(fake: SimpleNamespace, label: str) -> None:
    run = fake.run(suites=[fake.suite(n=5)])
    for line in (line for line in run.lines if line["method"] == label):
        tokens = [t for done in emitted_rounds(line) for t in done.tokens if t.kind not in NOT_EMITTED]
        assert [t.token_id for t in tokens] == line["token_ids"]
