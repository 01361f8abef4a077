"""Answers of Spec-Bench, MMSpec and EAGLE: JSON lines in FastChat's form, each with a list of choices.

The three count rounds otherwise: `idxs` is the index of the last round, `decoding_steps` their number.
"""

from statistics import fmean
from typing import Any

from fastvlm_bench.foreign import Answer, Contents, Rows, is_number, numbers
from fastvlm_bench.suites.annotations import Document

TOOL = "Spec-Bench, MMSpec and EAGLE (answers)"
LAYOUT = "each line is {question_id, choices: [{turns: [TEXT], wall_time: [SECONDS], new_tokens: [NUMBER]}]}"
ERROR = "ERROR"
"""What FastChat's scripts write as the text where generation raised an error."""


def knows(row: Any) -> bool:
    return isinstance(row, dict) and "question_id" in row and "choices" in row


def read(document: Document, rows: Rows) -> Contents:
    answers, several, models = [], 0, []
    for place, row in rows:
        sample_id = document.identity(row, "question_id", place)
        choices = document.get(row, "choices", list, place)
        if not choices:
            raise document.fault(f"{place}.choices", "is an empty list")
        several += len(choices) > 1
        models.append(str(row.get("model_id") or ""))
        answers.append(_answer(document, sample_id, row, choices[0], f"{place}.choices[0]"))
    notes = [f"{several} samples have several choices: the first of each counts"] if several else []
    return Contents(tuple(answers), models[0], notes=tuple(notes))


def _answer(document: Document, sample_id: str, row: Any, choice: Any, place: str) -> Answer:
    turns = document.get(choice, "turns", list, place)
    if not turns or not all(isinstance(text, str) for text in turns):
        raise document.fault(f"{place}.turns", "must be a list of texts, one for each turn")
    count = len(turns)
    rounds = numbers(document, choice, "decoding_steps", count, place, whole=True)
    if not rounds:
        rounds = tuple(index + 1 for index in numbers(document, choice, "idxs", count, place, whole=True))
    when = row.get("tstamp")
    return Answer(
        sample_id, tuple(turns), numbers(document, choice, "wall_time", count, place),
        tuple(map(int, numbers(document, choice, "new_tokens", count, place, whole=True))), tuple(map(int, rounds)),
        _told(choice.get("acceptance_length"), count), str(row.get("topic") or row.get("category") or ""),
        prompt={kind: str(row[kind]) for kind in ("topic", "category") if row.get(kind)},
        failed="the tool recorded an error" if ERROR in turns else "",
        recorded_at=float(when) if is_number(when) else None,
    )  # fmt: skip


def _told(given: Any, turns: int) -> tuple[float, ...]:
    """The acceptance length of each turn: a number, or the mean of a list of rounds; () for any other form."""
    if not isinstance(given, list) or len(given) != turns:
        return ()
    turn_by_turn = [item if isinstance(item, list) else [item] for item in given]
    if not all(items and all(map(is_number, items)) for items in turn_by_turn):
        return ()
    return tuple(map(fmean, turn_by_turn))
