"""VQA accuracy (VQAv2, OK-VQA, TextVQA): agreement with ten people's answers.

acc = (1/10) Σ_i min(1, #{j ≠ i : a_j = p} / 3), the mean over the ten ways to leave one person out. With k of the ten
answers equal to the prediction: k = 0 → 0, 1 → 0.3, 2 → 0.6, 3 → 0.9, 4 or more → 1. Both sides are normalised first
(punctuation, articles, number words, contractions).

Sources: GT-Vision-Lab/VQA `vqaEval.py` at a013f00 (formula, normalisation, table of contractions); the M4C/TextVQA
evaluator of facebookresearch/mmf, `EvalAIAnswerProcessor` (variant "m4c").

lmms-eval's VQAv2 task applies that processor to the prediction alone. It normalises the people's answers as the
official scorer does, and only where they are not all the same. On answers that are in normalised form already, this
equals "normalised" and not "m4c". The one exception is a prediction with "'s", which is split there and meets no
answer.

The three variants differ only in when and how the texts are normalised:

* "normalised" (default): always both sides. So "Yes" against ten times "yes" is right.
* "official": neither side, if all ten answers are the same string; "Yes" against ten times "yes" is then wrong (0.0).
* "m4c": always both sides, after lower-casing, deleting every "," and "?", and splitting "'s" off. "who's" then
  becomes "who 's" and no longer meets "whos", which the table of contractions makes "who's".
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, get_args

from fastvlm_bench.errors import UsageError, did_you_mean
from fastvlm_bench.metrics import MetricKind, MetricScore, check_samples

METRIC = MetricKind("VQA acc.", "agreement with ten people's answers")

Variant = Literal["normalised", "official", "m4c"]

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_WITH_COMMA = re.compile(r"\d,\d")
# The official pattern is (?!<=\d)(\.)(?!\d): a mistyped look-behind, which never applies.
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS = 32  # officially re.UNICODE (= 32) is passed where `count` belongs
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())}
_ARTICLES = {"a", "an", "the"}
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've"
    " he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't"
    " not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll"
    " somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd"
    " there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll"
    " what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's"
    " won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
# The official table lists each word with one of its apostrophes left out. The last entry is a slip in that table.
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


def score(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    variant: Variant = "normalised",
) -> MetricScore:
    """Mean VQA accuracy, and one value per sample; `references` holds the people's answers, normally ten.

    With fewer than four answers, three others can never agree. It is then enough that all others agree; a single answer
    must equal the prediction. In the default variant a blank prediction scores 0 whatever the answers are
    (officially it equals an answer such as "a", of which the normalisation leaves nothing). Raises UsageError for bad
    lengths and for an unknown variant.
    """
    if variant not in get_args(Variant):
        raise UsageError(
            f"unknown VQA variant '{variant}'{did_you_mean(variant, get_args(Variant))};"
            f" choose one of: {', '.join(get_args(Variant))}"
        )
    check_samples(predictions, references)
    forms = _Forms(variant)
    per_sample = [_accuracy(p, answers, variant, forms) for p, answers in zip(predictions, references, strict=True)]
    return MetricScore(sum(per_sample) / len(per_sample), per_sample)


@lru_cache(maxsize=1 << 16)
def normalise(answer: str, variant: Variant = "normalised") -> str:
    """The answer in the form that is compared. "official" and "normalised" share one form; "m4c" splits off "'s"."""
    if variant == "m4c":
        answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _plain_words(_without_punctuation(_on_one_line(answer)))


class _Forms(dict[str, str]):
    """The form of each answer that was met. A data set has ten answers a sample, and few that differ."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant

    def __missing__(self, answer: str) -> str:
        form = self[answer] = normalise(answer, self.variant)
        return form


def _accuracy(prediction: str, answers: Sequence[str], variant: Variant, forms: Mapping[str, str]) -> float:
    if variant == "normalised" and not prediction.strip():
        return 0.0
    if variant == "official" and len({_on_one_line(answer) for answer in answers}) == 1:
        given, people = _on_one_line(prediction), [_on_one_line(answer) for answer in answers]
    else:
        given, people = forms[prediction], [forms[answer] for answer in answers]
    return _agreement(people.count(given), len(people))


@lru_cache(maxsize=1024)
def _agreement(agreeing: int, people: int) -> float:
    """The accuracy of an answer that so many of the people gave."""
    others = people - 1
    if others == 0:
        return float(agreeing)
    enough = min(3, others)
    # Leaving out one of the agreeing people removes one match; leaving out anyone else removes none.
    total = agreeing * min(1.0, (agreeing - 1) / enough) + (people - agreeing) * min(1.0, agreeing / enough)
    return total / people


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """Delete a sign that stands next to a space (all signs, if a number has a comma), else put a space for it."""
    delete_all = _DIGITS_WITH_COMMA.search(text) is not None
    result = text
    for sign in _PUNCTUATION:
        delete = delete_all or f"{sign} " in text or f" {sign}" in text
        result = result.replace(sign, "" if delete else " ")
    return _FULL_STOP.sub("", result, count=_MOST_FULL_STOPS)


def _plain_words(text: str) -> str:
    """Lower case, number words as digits, no articles, contractions with their apostrophe."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
