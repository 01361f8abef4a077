"""What is recorded of generation settings is what `generate` uses, and what a checkpoint asks for in vain is told."""

import copy
from typing import Any

import pytest
from transformers import GenerationConfig

from fastvlm_bench.config import RunConfig
from fastvlm_bench.models.generation_settings import SAMPLING, SEARCH, SETTINGS, generation_settings


def settings(told: dict[str, Any] | None = None, **own: Any) -> dict[str, dict[str, Any]]:
    return generation_settings(GenerationConfig(**{"eos_token_id": 2, **own}), RunConfig(**(told or {})).generation)


GREEDY = {"do_sample": False, "num_beams": 1, "eos_token_id": [2]}


def test_a_checkpoint_that_asks_for_nothing() -> None:
    assert settings() == {"in_force": GREEDY, "overridden": {}}


@pytest.mark.parametrize(("name", "value"), [
    ("repetition_penalty", 1.05), ("no_repeat_ngram_size", 3), ("suppress_tokens", [7]), ("min_new_tokens", 4),
    ("bad_words_ids", [[5, 6]]), ("forced_eos_token_id", 2), ("min_length", 8), ("begin_suppress_tokens", [1]),
])  # fmt: skip
def test_what_changes_tokens_is_in_force(name: str, value: Any) -> None:
    assert settings(**{name: value}) == {"in_force": {**GREEDY, name: value}, "overridden": {}}


def test_qwens_settings_in_a_greedy_and_in_a_drawn_run() -> None:
    own = {"do_sample": True, "temperature": 0.01, "top_p": 0.9, "top_k": 1, "repetition_penalty": 1.05,
           "eos_token_id": [9, 3]}  # fmt: skip
    greedy = settings(**own)
    assert greedy["in_force"] == {**GREEDY, "eos_token_id": [3, 9], "repetition_penalty": 1.05}
    assert greedy["overridden"] == {"do_sample": True, "temperature": 0.01, "top_p": 0.9, "top_k": 1}
    drawn = settings({"temperature": 0.7}, **own, min_p=0.1)
    assert drawn["in_force"] == {
        "do_sample": True, "num_beams": 1, "eos_token_id": [3, 9], "repetition_penalty": 1.05, "temperature": 0.7,
        "min_p": 0.1,
    }  # fmt: skip
    assert drawn["overridden"] == {"temperature": 0.01, "top_p": 0.9, "top_k": 1}


def test_beams_and_the_end_of_answers() -> None:
    assert settings(num_beams=3)["overridden"] == {"num_beams": 3}
    found = settings({"ignore_eos": True})
    assert found["in_force"]["eos_token_id"] == [] and found["overridden"] == {"eos_token_id": [2]}


def test_neutral_values_say_nothing() -> None:
    neutral = {name: value for name, value in (SETTINGS | SEARCH).items() if value is not None}
    assert settings(**neutral) == settings()


@pytest.mark.parametrize("told", [{}, {"temperature": 0.5}, {"temperature": 0.5, "top_k": 7}])
def test_generate_uses_the_same(told: dict[str, Any]) -> None:
    """transformers' own merging of the run's options with the checkpoint's settings gives the recorded values."""
    own = GenerationConfig(eos_token_id=2, do_sample=True, top_p=0.8, top_k=3, repetition_penalty=1.2, min_length=3)
    found = generation_settings(own, RunConfig(**told).generation)["in_force"]
    merged = copy.deepcopy(own)
    merged.update(**RunConfig(**told).generation)
    merged.update(**own._get_default_generation_params(), defaults_only=True)
    for name, neutral in (SETTINGS | (SAMPLING if told else {}) | {"do_sample": None, "num_beams": None}).items():
        used = getattr(merged, name)
        assert found.get(name, neutral) == (neutral if used is None else used), name


def test_every_setting_is_one_of_transformers() -> None:
    assert (
        SETTINGS.keys() | SAMPLING.keys() | SEARCH.keys()
        <= GenerationConfig().to_dict().keys() | vars(GenerationConfig()).keys()
    )
