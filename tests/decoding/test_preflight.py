"""What is checked before any sample: every suite of the run, at its longest prompt."""

from dataclasses import replace
from typing import Any

import pytest

from fastvlm_bench.checks import longest_prompt
from fastvlm_bench.checks import preflight as checked
from fastvlm_bench.checks.preflight import in_lines, preflight
from fastvlm_bench.errors import UsageError
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.suites.suite import Suite, load_suite, open_image


@pytest.fixture(scope="module")
def target() -> Target:
    return load_target("tiny", device="cpu")


@pytest.fixture(scope="module")
def suites() -> list[Suite]:
    return [load_suite("coco-caption", limit=3), load_suite("vqav2", limit=20)]


def tokens(target: Target, suite: Suite) -> list[int]:
    return [target.encode(open_image(s), s.prompt)["input_ids"].shape[1] for s in suite.samples]


def test_each_suite_is_asked_for_its_longest_prompt(target: Target, suites: list[Suite]) -> None:
    facts = preflight(target, suites, None)
    assert [each["suite"] for each in facts["suites"]] == ["coco-caption", "vqav2"]
    for suite, each in zip(suites, facts["suites"], strict=True):
        lengths = tokens(target, suite)
        assert each["prompt_tokens"] == max(lengths) and each["limit"] == suite.max_new_tokens and each["fits"]
        assert suite.samples[lengths.index(max(lengths))].sample_id == each["sample_id"]
    assert len(set(tokens(target, suites[1]))) > 1, "nothing to find: all prompts are equally long"
    assert facts["kv_bytes"] == max(each["kv_bytes"] for each in facts["suites"])
    assert len(list(in_lines(facts, target.device))) == 3
    twice = preflight(target, suites, None, rows=2)
    assert twice["kv_bytes"] == 2 * facts["kv_bytes"]


def test_the_second_suite_has_no_room(target: Target, suites: list[Suite], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (each["kv_bytes"] for each in preflight(target, suites[::-1], None)["suites"])
    assert first < second
    monkeypatch.setattr(checked, "free_bytes", lambda _: second - 1)
    with pytest.raises(UsageError, match="^coco-caption: 64 new tokens after a prompt of 54 .* --max-new-tokens$"):
        preflight(target, suites[::-1], None)


def test_what_does_not_fit_the_positions(target: Target, suites: list[Suite], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the longest prompt does not fit, its sample is reported; if none fits, the run is refused."""
    lengths = tokens(target, suites[1])
    monkeypatch.setattr(longest_prompt, "positions", lambda _: max(lengths) + 16 - 1)
    facts = preflight(target, suites, 16)
    told = facts["suites"][1]
    assert not told["fits"] and told["prompt_tokens"] == max(lengths)
    assert f"sample {told['sample_id']} will fail: the model has" in list(in_lines(facts, target.device))[-1]
    monkeypatch.setattr(longest_prompt, "positions", lambda _: min(lengths) + 16 - 1)
    with pytest.raises(UsageError, match="^vqav2: a prompt of .* positions; lower --max-new-tokens$"):
        preflight(target, suites[1:], 16)


def test_a_question_among_captions_is_told_for_a_model_that_answers_none(
    target: Target, suites: list[Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every prompt of every suite is rendered, since the first may be allowed where a later one is not."""

    def render(prompt: str) -> str:
        if "?" in prompt:
            raise UsageError("answers no questions")
        return Target.render(target, prompt)

    mixed = replace(suites[0], name="mixed", samples=(suites[0].samples[0], suites[1].samples[0]))
    other: Any = replace(target)
    monkeypatch.setattr(other, "render", render)
    with pytest.raises(UsageError, match="answers no questions"):
        preflight(other, [suites[0], mixed], None)


@pytest.mark.parametrize("error", [KeyError(980), ZeroDivisionError("no size"), OSError("gone")])
def test_whatever_a_processor_raises(
    target: Target, suites: list[Suite], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A processor may be the checkpoint's own code, so every kind of error becomes one line."""

    def encode(image: Any, prompt: str) -> Any:
        raise error

    other: Any = replace(target)
    monkeypatch.setattr(other, "encode", encode)
    with pytest.raises(UsageError, match=f"Processor cannot read sample .*{type(error).__name__}") as caught:
        preflight(other, suites, None)
    assert "\n" not in str(caught.value)
