"""Drafts that are unused, wrong or always right, and methods that are slow: one warning a cause, advice that fits."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from covering import covering

from fastvlm_bench.analysis.notices import Notice
from fastvlm_bench.analysis.remedies import ENOUGH_TESTED, LOOP, NO_DRAFTS, SHORT, UNPAID, WASTED
from fastvlm_bench.analysis.verdict import judge
from fastvlm_bench.method_spec import METHODS, REFERENCE

OF_DRAFTS = ("UntrainedDraft", "UselessDrafts", "AllAccepted", "SlowerThanReference")
DRAFTING = [name for name, kind in METHODS.items() if kind.drafts and name != "control"]
LEAST = {"gamma": 1, "exit_layer": 1, "skip": 0.01, "stop_below": 0.0, "model": "m", "draft": "d"}
USUAL = {"gamma": 6, "exit_layer": 4, "skip": 0.5, "stop_below": 0.5, "model": "m", "draft": "d"}


def unused(line: dict[str, Any]) -> dict[str, Any]:
    rounds = [[0, 0, 0, 1, 0.0, 0.02] for _ in line["token_ids"][1:]]
    return {**line, "rounds": rounds, "decode_s": 1.01 * sum(r[5] for r in rounds)}


def costly(line: dict[str, Any]) -> dict[str, Any]:
    rounds = [[*r[:4], r[4] * 8, r[5] * 2] for r in line["rounds"]]
    return {**line, "rounds": rounds, "decode_s": 1.01 * sum(r[4] + r[5] for r in rounds)}


def overhead(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "decode_s": line["decode_s"] * 5}


SITUATIONS: dict[str, tuple[float, Any, int | None]] = {
    "unused": (0.8, unused, None), "guessing": (0.01, costly, None), "wasted": (0.25, None, None),
    "unpaid": (0.8, costly, None), "overhead": (0.8, overhead, None), "all accepted": (1.0, None, None),
    "short": (0.8, costly, 3),
}  # fmt: skip
"""Name -> α, what is done to the lines of the method, and the length of all answers."""


def warned(fake: SimpleNamespace, name: str, situation: str, options: dict[str, Any], *, n: int = 40) -> list[Notice]:
    """All warnings of a run of one method. options: those of them that the method has are recorded."""
    alpha, change, tokens = SITUATIONS[situation]
    kind = METHODS[name]
    own = {key: value for key, value in options.items() if key in kind.options}
    draft = {"head": "mlp", "exit_layer": own.get("exit_layer", 2)} if kind.trained else None
    described = fake.method(name, options=own, draft=draft, lossless=kind.lossless)

    def edited(line: dict[str, Any]) -> dict[str, Any]:
        return change(line) if change and line["method"] == name else line

    costs = [{"suite": "coco-caption", "method": name, "standard_s": 0.01, "draft_s": 0.0015, "verify_s": [0.0095] * 9}]
    methods, suite = [fake.method(REFERENCE), described], fake.suite(n=n, split="val", source="coco", metrics=[])
    run = fake.run(suites=[suite], alpha=alpha, tokens=tokens, methods=methods, change=edited, meta={"costs": costs})
    return list(judge(run).warnings)


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("name", covering(DRAFTING, ["fastvlm", "prompt-lookup", "draft-model"]))
def test_advice_is_of_options_that_the_method_has_and_each_cause_has_one_warning(
    fake: SimpleNamespace, name: str, situation: str
) -> None:
    for options in (USUAL, LEAST):
        found = warned(fake, name, situation, options)
        about = [notice for notice in found if notice.name in OF_DRAFTS]
        assert len(about) <= 1, about
        assert situation in ("all accepted", "wasted", "guessing") or about, found
        for notice in found:
            advised = re.findall(r"\b(a|another) ?(lower|higher|smaller|larger)? ([a-z_]+)=", notice.message)
            for _, way, key in advised:
                assert key in METHODS[name].options, notice
                assert not (way in ("lower", "smaller") and isinstance(LEAST[key], float | int) and options is LEAST
                            ), f"{key} has its least value already: {notice}"  # fmt: skip
            if "training it" in notice.message or "the draft was never used" in notice.message:
                assert METHODS[name].trained, notice
            if "skip-search" in notice.message:
                assert METHODS[name].skips, notice
        assert not {"SlowerThanPredicted", "SlowerThanReference"} <= {n.name for n in found}


@pytest.mark.parametrize(("name", "situation", "called", "said"), [
    ("fastvlm", "guessing", "UntrainedDraft", "α is 0.01"),
    ("layerskip", "guessing", "UselessDrafts", "a higher exit_layer="),
    ("fastvlm", "unused", "UntrainedDraft", "never used; try a lower stop_below="),
    ("prompt-lookup", "unused", "UselessDrafts", "it drafted nothing"),
    ("fastvlm", "wasted", "SlowerThanReference", WASTED), ("fastvlm", "unpaid", "SlowerThanReference", UNPAID),
    ("fastvlm", "overhead", "SlowerThanReference", LOOP), ("fastvlm", "short", "SlowerThanReference", SHORT),
    ("swift", "unpaid", "SlowerThanReference", "a smaller gamma="),
    ("fastvlm", "all accepted", "AllAccepted", "all of"),
])  # fmt: skip
def test_each_situation_has_its_warning(
    fake: SimpleNamespace, name: str, situation: str, called: str, said: str
) -> None:
    (notice,) = [each for each in warned(fake, name, situation, USUAL) if each.name in OF_DRAFTS]
    assert notice.name == called and said in notice.message


def test_all_accepted_of_few_says_nothing(fake: SimpleNamespace) -> None:
    """Of a hundred drafts, a draft with α 0.98 often has no rejected one."""
    assert ENOUGH_TESTED > 100
    assert not {"AllAccepted", "UntrainedDraft"} & {w.name for w in warned(fake, "fastvlm", "all accepted", USUAL, n=6)}


def test_the_last_layer_is_no_higher_exit(fake: SimpleNamespace) -> None:
    told = warned(fake, "layerskip", "guessing", {**USUAL, "exit_layer": 23})
    assert not any("exit_layer=" in notice.message.partition(":")[2] for notice in told)


def test_methods_that_are_slow_for_one_cause_share_a_warning(fake: SimpleNamespace) -> None:
    labels = [f"layerskip:exit_layer={n},gamma=4" for n in range(2, 12)]
    methods = [fake.method(REFERENCE), fake.method("hf-generate"), *(
        fake.method(label, name="layerskip", options={"gamma": 4, "exit_layer": n})
        for n, label in enumerate(labels, start=2)
    )]  # fmt: skip

    def change(line: dict[str, Any]) -> dict[str, Any]:
        return line if line["method"] == REFERENCE else {**line, "decode_s": line["decode_s"] * 1.4}

    run = fake.run(suites=[fake.suite(n=20, split="val", metrics=[])], methods=methods, alpha=0.2, change=change)
    slow = [notice.message for notice in judge(run).warnings if notice.name == "SlowerThanReference"]
    assert len(slow) == 2
    assert any(f"10 methods are slower than {REFERENCE}: {labels[0]} (decoding is 0." in text for text in slow)
    assert any(text.startswith("coco-caption, hf-generate: decoding is 0.") and NO_DRAFTS in text for text in slow)


@pytest.mark.parametrize(("draft", "says"), [
    ({"kind": "eagle3", "states": "2-12-21"}, "count its states otherwise: try aux=1-11-20 or aux=3-13-22"),
    ({"kind": "eagle3", "states": "0-2-4"}, "otherwise: try aux=1-3-5"),
    ({"kind": "eagle", "states": "2-12-21"}, "the head may be another target's"),
    ({"kind": "mtp"}, "the head may be another target's"),
])  # fmt: skip
def test_a_head_that_guesses_may_read_other_states(fake: SimpleNamespace, draft: dict[str, Any], says: str) -> None:
    """The tools number the states that a head reads differently, by one."""
    one = fake.method(draft["kind"], options={"gamma": 6}, draft=draft)
    run = fake.run(suites=[fake.suite(n=40, split="val", metrics=[])], methods=[fake.method(REFERENCE), one], alpha=0.0)
    told = [notice for notice in judge(run).warnings if notice.name == "UntrainedDraft"]
    assert len(told) == 1 and told[0].message.endswith(says)
