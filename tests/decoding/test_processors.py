"""Logits processors with a state are refused; those whose scores depend on prefix and logits alone are accepted."""

import inspect
import re
from typing import Any

import pytest
import torch
from targets import generate, oracle_draft
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, SynthIDTextWatermarkingConfig
from transformers.generation import logits_process as own
from transformers.generation.utils import GenerationMixin

from fastvlm_bench.decoding.control import Control
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.fastvlm import FastVLM
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.engine.processors import KEEPS, PURE, check_processors
from fastvlm_bench.errors import UsageError

VOCABULARY = 60
PROMPT = torch.tensor([[1, 11, 22, 33, 11, 22]])
EOS = torch.tensor([2])
MADE: dict[str, Any] = {
    "MinLengthLogitsProcessor": lambda: own.MinLengthLogitsProcessor(8, EOS),
    "MinNewTokensLengthLogitsProcessor": lambda: own.MinNewTokensLengthLogitsProcessor(6, 2, EOS),
    "TemperatureLogitsWarper": lambda: own.TemperatureLogitsWarper(0.7),
    "RepetitionPenaltyLogitsProcessor": lambda: own.RepetitionPenaltyLogitsProcessor(
        1.5, prompt_ignore_length=torch.tensor([1])
    ),
    "EncoderRepetitionPenaltyLogitsProcessor": lambda: own.EncoderRepetitionPenaltyLogitsProcessor(1.5, PROMPT),
    "TopPLogitsWarper": lambda: own.TopPLogitsWarper(0.8),
    "TopKLogitsWarper": lambda: own.TopKLogitsWarper(7),
    "TopHLogitsWarper": lambda: own.TopHLogitsWarper(0.5),
    "MinPLogitsWarper": lambda: own.MinPLogitsWarper(0.1),
    "TypicalLogitsWarper": lambda: own.TypicalLogitsWarper(0.8),
    "EpsilonLogitsWarper": lambda: own.EpsilonLogitsWarper(0.01),
    "EtaLogitsWarper": lambda: own.EtaLogitsWarper(0.01),
    "NoRepeatNGramLogitsProcessor": lambda: own.NoRepeatNGramLogitsProcessor(2),
    "EncoderNoRepeatNGramLogitsProcessor": lambda: own.EncoderNoRepeatNGramLogitsProcessor(2, PROMPT),
    "SequenceBiasLogitsProcessor": lambda: own.SequenceBiasLogitsProcessor([[[22, 5], 4.0], [[7], -2.0]]),
    "NoBadWordsLogitsProcessor": lambda: own.NoBadWordsLogitsProcessor([[22, 5], [7]], EOS),
    "PrefixConstrainedLogitsProcessor": lambda: own.PrefixConstrainedLogitsProcessor(
        lambda _, ids: [3, 4, int(ids[-1]) % 50], 1
    ),
    "ForcedBOSTokenLogitsProcessor": lambda: own.ForcedBOSTokenLogitsProcessor(1),
    "ForcedEOSTokenLogitsProcessor": lambda: own.ForcedEOSTokenLogitsProcessor(8, [2]),
    "InfNanRemoveLogitsProcessor": lambda: own.InfNanRemoveLogitsProcessor(),
    "ExponentialDecayLengthPenalty": lambda: own.ExponentialDecayLengthPenalty((1, 1.5), EOS, 6),
    "LogitNormalization": lambda: own.LogitNormalization(),
    "SuppressTokensAtBeginLogitsProcessor": lambda: own.SuppressTokensAtBeginLogitsProcessor([5, 6], 6),
    "SuppressTokensLogitsProcessor": lambda: own.SuppressTokensLogitsProcessor([5, 6]),
    "WatermarkLogitsProcessor": lambda: own.WatermarkLogitsProcessor(VOCABULARY, "cpu", seeding_scheme="selfhash"),
}
"""One of each stateless processor of transformers, with settings under which it does something."""


def check(*processors: Any) -> None:
    check_processors(processors, PROMPT, VOCABULARY)


def tried(processor: Any) -> Any:
    """A processor that passes for a user's own, so that it is tried however well its name is known."""

    class Users(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            return processor(input_ids, scores)

    return Users()


def test_every_processor_that_generate_can_build_is_known() -> None:
    """Where a new version of transformers builds another, this fails, and someone must decide on it."""
    source = inspect.getsource(GenerationMixin._get_logits_processor)
    built = set(
        re.findall(r"\b([A-Z]\w+(?:LogitsProcessor|LogitsWarper|Penalty|LogitNormalization|Normalization))\(", source)
    )
    assert {"TopKLogitsWarper", "UnbatchedClassifierFreeGuidanceLogitsProcessor", "LogitNormalization"} <= built
    built |= {"WatermarkLogitsProcessor", "SynthIDTextWatermarkLogitsProcessor"}  # of `watermarking_config`
    assert len(built) > 20
    assert built <= set(MADE) | set(KEEPS), built - set(MADE) - set(KEEPS)
    assert set(MADE) == PURE | {"PrefixConstrainedLogitsProcessor"}
    assert not PURE & set(KEEPS)
    assert all(hasattr(own, name) for name in (*PURE, *KEEPS)), (
        "a name that transformers does not have protects nothing"
    )


@pytest.mark.parametrize("name", MADE)
def test_transformers_own_stateless_ones_are_accepted_and_really_are(name: str) -> None:
    check(MADE[name]())
    check(tried(MADE[name]()))


class Counter(LogitsProcessor):
    """Bans the likeliest token at every third call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        return scores.scatter(1, scores.argmax(-1, keepdim=True), -1e9) if self.calls % 3 == 0 else scores


class LastSeen(LogitsProcessor):
    """Favours the last token of the prefix of the call before: it remembers what may have been rolled back."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.last] += 1.0
        self.last = int(input_ids[0, -1])
        return scores


class Longest(LogitsProcessor):
    """Penalises every token of the longest prefix that it was ever given."""

    def __init__(self) -> None:
        self.longest = torch.zeros(1, 0, dtype=torch.long)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] > self.longest.shape[1]:
            self.longest = input_ids
        return scores.scatter_add(1, self.longest, torch.full(self.longest.shape, -1.0))


class Drawing(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores + torch.rand(scores.shape)


class Writing(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        input_ids[0, 0] = 9
        return scores


class Raising(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raise KeyError("no table\nfor this")


@pytest.mark.parametrize("kind", [Counter, LastSeen, Longest, Drawing])
def test_a_users_own_with_a_state_is_refused(kind: Any) -> None:
    random = torch.random.get_rng_state()
    with pytest.raises(
        UsageError, match=f"^logits processor {kind.__name__} gives other scores .*leave it out"
    ) as caught:
        check(own.TopKLogitsWarper(7), kind())
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert torch.equal(random, torch.random.get_rng_state()), "trying must not change what is drawn"


def test_one_that_writes_to_the_ids_or_cannot_be_called_is_refused() -> None:
    with pytest.raises(UsageError, match="Writing changes the token ids"):
        check(Writing())
    with pytest.raises(UsageError, match="Raising cannot be tried .KeyError: 'no table") as caught:
        check(Raising())
    assert "\n" not in str(caught.value)


def test_one_that_only_records_is_accepted_and_tried_once() -> None:
    seen: list[int] = []

    class Recording(LogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            seen.append(input_ids.shape[1])
            return scores

    processor = Recording()
    check(processor)
    calls = len(seen)
    check(processor)
    assert calls == len(seen) > 10


def test_real_states_of_transformers_are_found_by_trying_too(llava: Any) -> None:
    """The names are a remedy's words; without them trying would refuse these as well."""
    size = llava.config.text_config.vocab_size
    guided = own.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, llava)
    marked = SynthIDTextWatermarkingConfig(ngram_len=5, keys=[3, 5, 7], context_history_size=8)
    for processor in (guided, marked.construct_processor(size, "cpu")):
        with torch.inference_mode(), pytest.raises(UsageError, match="Users gives other scores"):
            check_processors([tried(processor)], torch.tensor([[1, 11, 22, 33]]), size)


METHODS = {
    "standard": lambda model: Standard(),
    "fastvlm": lambda model: FastVLM(oracle_draft(model, 2), gamma=3),
    "control": lambda model: Control(gamma=3),
    "early-exit": lambda model: EarlyExit(oracle_draft(model, 2)),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("guidance_scale", 1.5, r"UnbatchedClassifierFreeGuidanceLogitsProcessor \(guidance_scale\) keeps a state"),
        (
            "watermarking_config", SynthIDTextWatermarkingConfig(ngram_len=5, keys=[3, 5, 7]),
            r"SynthIDTextWatermarkLogitsProcessor \(watermarking_config\) keeps a state",
        ),
        ("logits_processor", LogitsProcessorList([Counter()]), "logits processor Counter gives other scores"),
    ],
)  # fmt: skip
def test_through_custom_generate(
    llava: Any, inputs: dict[str, Any], name: str, option: str, value: Any, said: str
) -> None:
    with torch.inference_mode(), pytest.raises(UsageError, match=said):
        generate(llava, inputs, METHODS[name](llava), count=4, **{option: value})
