"""BLEU-4, ROUGE-L and CIDEr-D against the official scorers' values and against hand arithmetic."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import MetricScore, bleu4, cider_d, load, rouge_l
from fastvlm_bench.metrics.ptb_tokenizer import tokenize_all

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))["captions"]
HYPOTHESES = [item["hypothesis"] for item in VECTORS["items"]]
REFERENCES = [item["references"] for item in VECTORS["items"]]
SETS = {
    "all_twelve": (HYPOTHESES, REFERENCES),
    "subset_first_five": (HYPOTHESES[:5], REFERENCES[:5]),
    "single_image_1": (HYPOTHESES[:1], REFERENCES[:1]),
    "identical_prediction": ([texts[0] for texts in REFERENCES], REFERENCES),
}
CAPTION_METRICS = {"bleu4": "Bleu_4", "rouge_l": "ROUGE_L", "cider_d": "CIDEr"}


def low_level(name: str, predictions: list[str], references: list[list[str]]) -> MetricScore:
    if name == "cider_d":  # `score` refuses the single image of the vectors
        return cider_d.corpus_cider_d(tokenize_all(predictions), [tokenize_all(texts) for texts in references])
    return load(name).score(predictions, references)


def agrees(name: str, sample_set: str) -> bool:
    expected, key = VECTORS[sample_set], CAPTION_METRICS[name]
    found = low_level(name, *SETS[sample_set])
    per_image = [values[key] for values in expected["per_image"].values()]
    return found.value == pytest.approx(expected["corpus"][key], rel=0, abs=1e-9) and found.per_sample == pytest.approx(
        per_image, rel=0, abs=1e-9
    )


@pytest.mark.parametrize("sample_set", SETS)
@pytest.mark.parametrize("name", CAPTION_METRICS)
def test_equals_the_official_scorer(name: str, sample_set: str) -> None:
    assert agrees(name, sample_set)


@pytest.mark.parametrize(
    ("name", "module", "attribute", "value"),
    [
        ("bleu4", bleu4, "_ORDERS", (1, 2, 3)),
        ("bleu4", bleu4, "tokenize_all", lambda texts: [text.lower() for text in texts]),
        ("rouge_l", rouge_l, "_BETA_SQUARED", 1.2),
        ("rouge_l", rouge_l, "tokenize_all", list),
        ("cider_d", cider_d, "_SIGMA", 6.01),
    ],
)
def test_the_vectors_notice_a_mutant(
    name: str, module: object, attribute: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, attribute, value)
    assert not agrees(name, "all_twelve")


@pytest.mark.parametrize("name", CAPTION_METRICS)
def test_the_order_of_images_and_references_does_not_matter(name: str) -> None:
    metric = load(name)
    straight = metric.score(HYPOTHESES, REFERENCES)
    order = list(range(len(HYPOTHESES)))
    random.Random(7).shuffle(order)
    shuffled = metric.score([HYPOTHESES[i] for i in order], [REFERENCES[i][::-1] for i in order])
    assert shuffled.value == pytest.approx(straight.value, abs=1e-12)
    assert shuffled.per_sample == pytest.approx([straight.per_sample[i] for i in order], abs=1e-12)


@pytest.mark.parametrize("name", CAPTION_METRICS)
@pytest.mark.parametrize("empty", ["", "   ", "...", "\x00", "\ud800"])
def test_an_empty_prediction_scores_zero(name: str, empty: str) -> None:
    references = [["a red dog"], ["a blue cat", "..."]]
    score = load(name).score([empty, empty], references)
    assert (score.value, score.per_sample) == (0.0, [0.0, 0.0]) and not any(score.parts.values())


@pytest.mark.parametrize("name", CAPTION_METRICS)
@pytest.mark.parametrize("mark", ["\r", "\u2028", "\v", "\f", "\x00", "\ud800"])
def test_a_hostile_caption_leaves_the_other_scores_alone(name: str, mark: str) -> None:
    predictions = [f"a{mark}{HYPOTHESES[0]}", *HYPOTHESES[1:]]
    before = low_level(name, HYPOTHESES, REFERENCES).per_sample
    assert low_level(name, predictions, REFERENCES).per_sample[1:] == before[1:]


# ---- hand arithmetic -------------------------------------------------------------------------------------------------


def test_bleu_by_hand() -> None:
    # 1- to 4-grams matched: 4/5, 3/4, 2/3, 1/2; same length, so BP = 1; (4/5 · 3/4 · 2/3 · 1/2)^(1/4) = 0.2^(1/4).
    assert bleu4.score(["red dog runs fast today"], [["red dog runs fast now"]]).value == pytest.approx(
        0.2**0.25, abs=1e-6
    )
    # c = 4, r = 5, all n-grams match: BP = exp(1 − 5/4).
    assert bleu4.score(["red dog runs fast"], [["red dog runs fast now"]]).value == pytest.approx(
        math.exp(-0.25), abs=1e-6
    )
    # References of 3 and 5 words are equally close to 4: the shorter counts, so BP = 1.
    two = ["red dog runs fast now", "red dog runs"]
    assert bleu4.score(["red dog runs fast"], [two]).value == pytest.approx(1.0, abs=1e-6)


def test_bleu_pools_counts_and_clips_them() -> None:
    # Second sample: one word of one. Pooled: 5/6, 3/4, 2/3, 1/2 -> (5/24)^(1/4); the mean of the two would differ.
    pooled = bleu4.score(["red dog runs fast today", "cat"], [["red dog runs fast now"], ["cat"]])
    assert pooled.value == pytest.approx((5 / 24) ** 0.25, abs=1e-6)
    assert pooled.value != pytest.approx(sum(pooled.per_sample) / 2, abs=1e-2)
    # "dog" stands at most twice in one reference: 2 of 4 unigrams, 1 of 3 bigrams, no longer ones.
    references = [["dog", "dog", "sun"], ["dog"]]
    assert bleu4._clipped_matches(["dog"] * 4, references) == [2, 1, 0, 0]


@pytest.mark.parametrize("sample_set", SETS)
def test_shorter_bleu_equals_the_official_scorer(sample_set: str) -> None:
    corpus = VECTORS[sample_set]["corpus"]
    expected = {f"bleu{n}": pytest.approx(corpus[f"Bleu_{n}"], rel=0, abs=1e-9) for n in (1, 2, 3)}
    assert bleu4.score(*SETS[sample_set]).parts == expected


def test_bleu_of_summed_counts_is_the_score() -> None:
    counts = bleu4.counts(["red dog runs fast today", "cat"], [["red dog runs fast now"], ["cat", "a big cat"]])
    assert counts == [(4, 3, 2, 1, 5, 4, 3, 2, 5, 5), (1, 0, 0, 0, 1, 0, 0, 0, 1, 1)]
    assert bleu4.combine([a + b for a, b in zip(*counts, strict=True)]) == pytest.approx((5 / 24) ** 0.25, abs=1e-6)
    both = bleu4.counts(HYPOTHESES, REFERENCES)
    assert (
        bleu4.combine([sum(column) for column in zip(*both, strict=True)]) == bleu4.score(HYPOTHESES, REFERENCES).value
    )
    with pytest.raises(UsageError, match="1 predictions but 2 lists"):
        bleu4.counts(["a"], [["a"], ["b"]])


def test_rouge_by_hand() -> None:
    # LCS "red dog" = 2: P = 2/3, R = 2/4; F = 2.44 · (2/3)(1/2) / (1/2 + 1.44 · 2/3).
    expected = 2.44 * (1 / 3) / (0.5 + 0.96)
    assert rouge_l.score(["red dog runs"], [["red dog sleeps now"]]).value == pytest.approx(expected, abs=1e-12)
    # The second reference adds R = 1/1 (P = 1/3): the maxima are taken apart, P = 2/3 and R = 1.
    expected = 2.44 * (2 / 3) / (1 + 0.96)
    assert rouge_l.score(["red dog runs"], [["red dog sleeps now", "red"]]).value == pytest.approx(expected, abs=1e-12)
    # "1 1/2" is one token with a no-break space: P = 1/1, R = 1/2.
    expected = 2.44 * 0.5 / (0.5 + 1.44)
    assert rouge_l.score(["1 1/2"], [["1 1/2 cups"]]).value == pytest.approx(expected, abs=1e-12)


def test_the_bit_parallel_subsequence_equals_the_table() -> None:
    dice = random.Random(3)
    for _ in range(300):
        left, right = ([dice.choice("abcd") for _ in range(dice.randint(1, 70))] for _ in range(2))
        row = [0] * (len(right) + 1)
        for word in left:
            diagonal = 0
            for j, other in enumerate(right, 1):
                diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
        assert rouge_l._longest_common_subsequence(left, right) == row[-1]


def test_cider_by_hand() -> None:
    # M = 2 and every n-gram occurs in one image, so each weight is ln 2 and cancels in the cosine.
    references = [["red dog"], ["blue cat"]]
    # Image 1: cosine 1 for n = 1 and 2, none for n = 3, 4: 10/4 · 2. Image 2: "cat" is 1 of 2 words: 10/4 · 1/2.
    assert cider_d.score(["red dog", "red cat"], references).per_sample == pytest.approx([5.0, 1.25], abs=1e-12)
    # "red dog dog": n = 1: (1·1 + min(2,1)·1) / (√5 √2); n = 2: 1 / (√2 · 1); one bigram too many: exp(−1/72).
    expected = 2.5 * (2 / math.sqrt(10) + 1 / math.sqrt(2)) * math.exp(-1 / 72)
    assert cider_d.score(["red dog dog", "x"], references).per_sample[0] == pytest.approx(expected, abs=1e-12)
    # A word in every image weighs ln 2 − ln 2 = 0.
    assert cider_d.score(["red", "red"], [["red dog"], ["red cat"]]).per_sample == [0.0, 0.0]


def test_cider_takes_the_document_frequency_of_the_full_set() -> None:
    full = [values["CIDEr"] for values in VECTORS["all_twelve"]["per_image"].values()]
    part = cider_d.score(HYPOTHESES[:5], REFERENCES[:5], document_frequency_references=REFERENCES)
    assert part.per_sample == pytest.approx(full[:5], abs=1e-9)
    one = cider_d.score(HYPOTHESES[:1], REFERENCES[:1], document_frequency_references=REFERENCES)
    assert one.value == pytest.approx(full[0], abs=1e-9) and one.value > 0
    assert cider_d.score(HYPOTHESES[:5], REFERENCES[:5]).per_sample != pytest.approx(full[:5], abs=1e-3)


def test_cider_refuses_a_single_image_and_says_why() -> None:
    with pytest.raises(UsageError, match="one image every caption scores exactly 0"):
        cider_d.score(HYPOTHESES[:1], REFERENCES[:1])
    with pytest.raises(UsageError, match=r"1 image"):
        cider_d.score(HYPOTHESES[:1], REFERENCES[:1], document_frequency_references=REFERENCES[:1])
