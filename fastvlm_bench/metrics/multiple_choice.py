"""Accuracy on questions with options (MMMU, ScienceQA), and on MMMU's open ones. What cannot be parsed is wrong.

`references` of a sample: the letter of the right option, then the options as they were shown, "A. nucleus",
"B. ribosome", …; a sample without options is an open question, and its references are its gold answers.

The variants are parsers of an answer to a question with options:

* "mmmu" (default; MMMU-Benchmark/MMMU `eval_utils.py` at bb0b95a): the signs , . ! ? ; : ' are stripped; then the last
  "(B)"; failing that the last " B "; failing that, in answers of more than five words, the last option's text.
* "scienceqa" (LLaVA `eval_science_qa.py`): the answer is "B", or starts with "B. ", or contains "The answer is B" just
  once. Here white space around it is stripped first, and "B.", "(B)" and a sentence that ends after the letter are
  accepted; otherwise one would measure typography.
* "scienceqa-official": the same without that leniency; "B." and "B\\n" are then unparsed.
* "mmstar" (MMStar's own `exact_match`, as lmms-eval has it): after lower case and stripping, the answer begins with the
  letter, "(letter", "option letter" or "the answer is letter". So "Apple" counts as A. The options are not needed.

The official MMMU code draws an option at random where it can parse none, so that two equal texts score differently.
Here such an answer is always wrong, and `parts` counts it. Answers to open questions are parsed by MMMU's rules, into
key phrases and numbers (rounded to 2 decimals). They are right if a phrase contains a gold text or a number equals a
gold number.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from fastvlm_bench.errors import UsageError
from fastvlm_bench.metrics import MetricKind, MetricScore, Part, check_samples, check_variant

METRIC = MetricKind(
    "MC acc.", "the option that is found in the answer; unparsed is wrong", parts={"unparsed": Part("unparsed")}
)

Variant = Literal["mmmu", "scienceqa", "scienceqa-official", "mmstar"]

_OPTION = re.compile(r"([A-Z])\. (.*)", re.DOTALL)
_STRIPPED = ",.!?;:'"
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def score(predictions: Sequence[str], references: Sequence[Sequence[str]], *, variant: Variant = "mmmu") -> MetricScore:
    """Accuracy, and 1.0 or 0.0 per sample. `parts["unparsed"]`: the share of answers in which no option was found.

    Raises UsageError for bad lengths, an unknown variant, and a right letter that is not among the options.
    """
    check_variant("multiple_choice", variant, get_args(Variant))
    check_samples(predictions, references)
    if variant == "mmstar":
        return _mmstar(predictions, references)
    per_sample, unparsed = [], 0
    for index, (prediction, texts) in enumerate(zip(predictions, references, strict=True)):
        options = {match[1]: match[2] for text in texts[1:] if (match := _OPTION.fullmatch(text))}
        if not options:
            per_sample.append(float(open_correct(prediction, texts)))
            continue
        if texts[0] not in options or len(options) != len(texts) - 1:
            raise UsageError(f"sample {index}: references are {list(texts)[:3]}…; give the right letter, then each "
                             "option once, as in 'B', 'A. red', 'B. blue'")  # fmt: skip
        letter = parse_mmmu(prediction, options) if variant == "mmmu" else parse_scienceqa(
            prediction, options, strict=variant == "scienceqa-official")  # fmt: skip
        unparsed += letter is None
        per_sample.append(float(letter == texts[0]))
    return MetricScore(sum(per_sample) / len(per_sample), per_sample, {"unparsed": unparsed / len(per_sample)})


def _mmstar(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MetricScore:
    letters = [mmstar_letter(prediction) for prediction in predictions]
    right = [float(letter == texts[0].strip().lower()) for letter, texts in zip(letters, references, strict=True)]
    unparsed = sum(letter is None or letter not in "abcdefghijklmnopqrstuvwxyz" for letter in letters)
    return MetricScore(sum(right) / len(right), right, {"unparsed": unparsed / len(right)})


def mmstar_letter(text: str) -> str | None:
    """The character, in lower case, at the place where MMStar's rule looks for the letter; None where there is none."""
    text = text.lower().strip().replace("\n", " ")
    for start in ("(", "option ", "the answer is "):
        if text.startswith(start):
            return text[len(start) : len(start) + 1] or None
    return text[:1] or None


def parse_mmmu(response: str, options: Mapping[str, str]) -> str | None:
    """The letter that MMMU's rules find; None where they find none (the official code then draws one)."""
    for sign in _STRIPPED:
        response = response.strip(sign)
    response = f" {response} "
    for form in ("({})", " {} "):
        places = {letter: response.rfind(form.format(letter)) for letter in options}
        if max(places.values()) >= 0:
            return max(places, key=lambda letter: places[letter])
    if len(response.split()) <= 5:
        return None
    places = {letter: response.lower().rfind(text.lower()) for letter, text in options.items()}
    return max(places, key=lambda letter: places[letter]) if max(places.values()) >= 0 else None


def parse_scienceqa(text: str, options: Mapping[str, str], *, strict: bool = False) -> str | None:
    """The letter that LLaVA's ScienceQA rules find, or None. strict: exactly as LLaVA's code, without the leniency."""
    if not strict:
        text = text.strip()
        if short := re.fullmatch(r"\(?([A-Z])[).]{0,2}", text):
            text = short.group(1)
    found = re.findall(r"The answer is ([A-Z])." if strict else r"The answer is \(?([A-Z])\b", text)
    if re.fullmatch("[A-Z]", text) or re.match(r"[A-Z]\. ", text):
        letter = text[0]
    else:
        letter = found[0] if len(found) == 1 else ""
    return letter if letter in options else None


def open_correct(response: str, golds: Sequence[str]) -> bool:
    """Whether an answer to an open question contains a gold text or equals a gold number, by MMMU's rules."""
    wanted = [form for gold in golds for form in _forms(gold)]
    texts = [form for form in wanted if isinstance(form, str)]
    return any(
        any(text in given for text in texts) if isinstance(given, str) else given in wanted
        for given in parse_open(response)
    )


def parse_open(response: str) -> set[str | float]:
    """The key phrases of an answer and the numbers in them, normalised."""
    response = response.strip().strip(".").lower()
    # The official code would also split at a dot before a capital, but its text is in lower case by then.
    parts = response.split("\n")
    keys = []
    for index, part in enumerate(parts):
        indicators = (*_INDICATORS, "=") if index == len(parts) - 1 else _INDICATORS
        shortest = ""
        for tail in (part.split(indicator)[-1].strip() for indicator in indicators if indicator in part):
            shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in set(_STRIPPED):
            keys.append(shortest)
    keys = keys or [response]
    found = [*keys, *(number for key in keys for pattern in _NUMBERS for number in re.findall(pattern, key))]
    return {form for text in found for form in _forms(text)}


def _forms(text: str) -> list[str | float]:
    """The text as a number rounded to 2 decimals, or in lower case. A single letter must stand next to a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
