"""Multiple-choice questions: how the choices are shown, and the references that `multiple_choice` reads."""

import ast
from collections.abc import Sequence

from fastvlm_bench.suites.annotations import Document
from fastvlm_bench.suites.readers import LETTERS, lettered

LETTER = "Answer with the option's letter from the given choices directly."
PHRASE = "Answer the question using a single word or phrase."


def asked(question: str, texts: Sequence[str], context: str = "") -> str:
    """The question as lmms-eval asks it: `Context: …` if there is any, the question, the lettered choices."""
    return "\n".join([*([f"Context: {context}"] if context else []), question, *lettered(texts)])


def chosen(document: Document, answer: int | str, texts: Sequence[str], place: str) -> tuple[str, ...]:
    """The right letter, then all choices. answer: the place of the right one, or its letter."""
    right = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
    if not isinstance(right, int) or not 0 <= right < len(texts) <= len(LETTERS):
        raise document.fault(place, f"is {answer!r}, but there are {len(texts)} choices")
    return (LETTERS[right], *lettered(texts))


def literal(document: Document, text: str, place: str) -> list[str]:
    """A list of texts in Python's notation. JSON would refuse its single quotes, and `eval` would run what it holds."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise document.fault(place, f"is {text[:40]!r}, not a Python list of texts")
    return found
