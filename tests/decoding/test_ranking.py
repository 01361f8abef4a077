"""Ranks of given answers: an answer's log-likelihood is that of reading it token by token, whatever is beside it."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from covering import covering
from families.builders import FAMILIES, randomise
from PIL import Image
from torch import Tensor

from fastvlm_bench.checks import ranking
from fastvlm_bench.checks.ranking import OptionRanker, option_tokens
from fastvlm_bench.decoding.build import Built
from fastvlm_bench.decoding.early_exit import EarlyExit
from fastvlm_bench.decoding.standard import Standard
from fastvlm_bench.drafts.imitation_head import Draft
from fastvlm_bench.drafts.manifest import MANIFEST
from fastvlm_bench.engine.layer_gate import LayerGate, Mode
from fastvlm_bench.engine.session import Session
from fastvlm_bench.errors import NonFiniteLogits
from fastvlm_bench.machine.clock import Clock
from fastvlm_bench.models.load import Target, load_target
from fastvlm_bench.models.names import TINY_DRAFTS

ANSWERS = ("red", "a blue house", "no", "two", "a large red star above a small green house", "yes", "a")
IDS = [[23], [45, 67], [89, 101, 33], [45, 11], [7, 8, 9, 10], [23, 23]]


class Forced:
    """One answer, fed token by token after its own prefill, as `standard` or `early-exit` decodes."""

    def __init__(self, answer: list[int], draft: Draft | None) -> None:
        self.answer, self.draft, self.total = answer, draft, 0.0

    def __call__(self, model: Any, input_ids: Tensor, **prepared: Any) -> Tensor:
        logits: list[Tensor] = []

        class Watched(Session):
            def choose(self, found: Tensor, *given: Any) -> list[list[int]]:
                logits.append(found[0, -1])
                return super().choose(found, *given)

        session = Watched(model, input_ids, clock=Clock(), **prepared)
        gate = LayerGate.of(model, self.draft) if self.draft is not None else None
        if gate is None:
            self._feed(session, None, logits)
        else:
            with gate.installed(self.draft.new_cache()):  # type: ignore[union-attr]
                self._feed(session, gate, logits)
        chosen = [torch.log_softmax(row.float(), -1) for row in logits]
        ends = sorted(session.end_tokens)
        told = [row[token] for row, token in zip(chosen, self.answer, strict=False)]
        self.total = float(sum([*told, torch.logsumexp(chosen[-1][ends], 0) if ends else torch.zeros(())]))
        return session.sequences

    def _feed(self, session: Session, gate: LayerGate | None, logits: list[Tensor]) -> None:
        session.prefill()
        if gate is not None:
            gate.mode = Mode.DRAFT
            session.kwargs["past_key_values"] = gate.draft_view(session.cache)
        for token in self.answer:
            session.replace_last(token)
            outputs = session.forward(1, (), session.kwargs)
            logits.append(outputs.logits[0, -1])
            session.advance_kwargs(outputs, session.kwargs, 1)
            session.emit([[token]])  # makes a place for the next token, which replaces this one


def one_by_one(model: Any, inputs: dict[str, Any], answers: list[list[int]], draft: Draft | None = None) -> list[float]:
    found = []
    for answer in answers:
        forced = Forced(answer, draft)
        with torch.inference_mode():
            model.generate(**inputs, max_new_tokens=20, do_sample=False, custom_generate=forced)
        found.append(forced.total)
    return found


@pytest.fixture(scope="module")
def tiny() -> Target:
    return load_target("tiny")


@pytest.fixture(scope="module")
def inputs(tiny: Target) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 255, (64, 64, 3), generator=generator, dtype=torch.uint8).numpy()
    return tiny.encode(Image.fromarray(pixels), "What color is it?")


ALONE = ("lfm2_vl", "qwen3_5", "qwen3_5_moe", "minicpmv4_6", "nemotron_h_omni", "glm5_next", "lfm3_vl", "inkling")
FEW = ("qwen2_vl", "florence2", "lfm2_vl")
"""Families of the default run: a decoder, a model with an encoder, and one whose cache cannot be repeated."""


@pytest.mark.parametrize("name", covering(FAMILIES, FEW))
def test_every_family_reads_answers_side_by_side_as_one_by_one(name: str) -> None:
    torch.manual_seed(0)
    model, given = FAMILIES[name]()
    randomise(model, 0)
    ranker = OptionRanker(SimpleNamespace(model=model))  # type: ignore[arg-type]
    assert ranker.log_likelihoods(IDS, given) == pytest.approx(one_by_one(model, given, IDS), abs=1e-3, rel=1e-4)
    # The ranker finds out that a cache which convolves or recurs cannot be repeated, and reads answers one by one.
    assert list(ranker.together.values()) == [name not in ALONE]


DRAFTS = sorted(path.parent.name for path in TINY_DRAFTS.glob(f"*/{MANIFEST}") if path.parent.name != "medusa")
"""Those that read at an early layer: Medusa's heads read the last, so nothing but the target's own ranks is theirs."""
QUICK = ("eagle-exit1",)


@pytest.mark.parametrize("folder", covering(DRAFTS, QUICK))
def test_a_draft_ranks_by_what_it_would_write(tiny: Target, inputs: dict[str, Any], folder: str) -> None:
    draft = Draft.load(TINY_DRAFTS / folder, tiny.model)
    tokens = option_tokens(tiny, "What color is it?", ANSWERS)
    ranker = OptionRanker(tiny)
    found = ranker.log_likelihoods(tokens, inputs, draft)
    assert found == pytest.approx(one_by_one(tiny.model, inputs, tokens, draft), abs=1e-3, rel=1e-4)
    assert list(ranker.together.values()) == [True]
    assert found != pytest.approx(ranker.log_likelihoods(tokens, inputs), abs=1e-2)


@pytest.mark.slow
def test_small_memory_means_small_groups(tiny: Target, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = option_tokens(tiny, "What color is it?", ANSWERS)
    whole = OptionRanker(tiny).log_likelihoods(tokens, inputs)
    monkeypatch.setattr(ranking, "CACHE_BYTES", 1)
    assert OptionRanker(tiny).log_likelihoods(tokens, inputs) == pytest.approx(whole, abs=1e-3)


def test_the_sum_is_a_distribution_and_the_mean_favours_long_answers(tiny: Target, inputs: dict[str, Any]) -> None:
    """The probabilities of answers of one token add up to at most 1. Ranks by sum and by mean follow the values."""
    sums = OptionRanker(tiny).log_likelihoods([[token] for token in range(60)], inputs)
    assert 0 < sum(map(math.exp, sums)) <= 1 + 1e-4
    tokens = option_tokens(tiny, "What color is it?", ANSWERS)
    values = OptionRanker(tiny).log_likelihoods(tokens, inputs)
    ranks = OptionRanker(tiny).ranks(ANSWERS, "What color is it?", inputs)
    assert ranks["sum"][values.index(max(values))] == 1
    means = [value / (len(ids) + 1) for value, ids in zip(values, tokens, strict=True)]
    assert ranks["mean"][means.index(max(means))] == 1
    assert sorted(ranks["sum"]) == sorted(ranks["mean"]) == list(range(1, len(ANSWERS) + 1))


def test_options_are_tokenised_as_they_follow_the_prompt(tiny: Target) -> None:
    tokenizer = tiny.processor.tokenizer
    whole = tokenizer.encode(tiny.render("What is it?") + " a red house", add_special_tokens=False)
    (found,) = option_tokens(tiny, "What is it?", [" a red house "])
    assert whole[-len(found) :] == found and tokenizer.decode(found).strip() == "a red house"
    assert option_tokens(tiny, "What is it?", [""]) == [tokenizer.encode(" ", add_special_tokens=False)]


def test_methods_get_the_ranks_of_what_decides_their_output(tiny: Target, inputs: dict[str, Any]) -> None:
    # Among answers that are all wrong, the draft has other favourites than the target.
    close = [f"{number} {thing}" for number in ("one", "two", "three") for thing in ("boats", "ducks", "trees")]
    draft = Draft.load(TINY_DRAFTS / "attention-exit1", tiny.model)
    methods = [Built("standard", Standard(), True, None, {}), Built("fastvlm", Standard(), True, 1, {}),
               Built("early-exit", EarlyExit(draft), False, 1, {})]  # fmt: skip
    sample = SimpleNamespace(sample_id="1-1", options=(*ANSWERS, *close), prompt="What color is it?")
    lines = [{"method": built.label, "error": None} for built in methods]
    failed = {"method": "fastvlm", "error": "out_of_memory: x"}
    standard, fastvlm, early, bad = OptionRanker(tiny).add([*lines, failed], sample, inputs, methods)
    assert standard["ranks"] == fastvlm["ranks"] != early["ranks"] and "ranks" not in bad


def test_nan_logits_are_no_rank(tiny: Target, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = OptionRanker(tiny)
    monkeypatch.setattr(ranker, "_read", lambda options, *_: [math.nan] * len(options))
    with pytest.raises(NonFiniteLogits, match="option is not a number"):
        ranker.log_likelihoods([[5], [6]], inputs)
