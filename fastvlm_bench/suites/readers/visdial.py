"""VisDial 1.0: one entry per dialog round, with the rounds before it as `{history}`, the way LAVIS writes them."""

from typing import Any

from fastvlm_bench.suites.annotations import Document, Entry, unique
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations", "image_name")
LAYOUT = (
    "VisDial's layout is {data: {dialogs: [{image_id, dialog: [{question: NUMBER, answer: NUMBER}]}], "
    "questions: [TEXT], answers: [TEXT]}}"
)


def read(source: Source) -> list[Entry]:
    """One entry per round; ids are IMAGE-ROUND, rounds from 1.

    (LAVIS rewrites a single dict for all rounds of a dialog, so there every round ends up as the last one.)
    """
    return entries_of(source.document("annotations", LAYOUT), source.settings["image_name"])


def entries_of(document: Document, image_name: str) -> list[Entry]:
    """The entries of a parsed file. image_name: the format of an image's file name, with `{image_id}`."""
    data = document.get(document.table(), "data", dict, "the top level")
    dialogs, questions, answers = (document.get(data, k, list, "data") for k in ("dialogs", "questions", "answers"))
    if not dialogs:
        raise document.fault("data.dialogs", "is an empty list")
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for index, dialog in enumerate(dialogs):
        place = f"data.dialogs[{index}]"
        image_id = document.get(dialog, "image_id", int, place)
        unique(document, places, str(image_id), place, "image_id")
        name = image_name.format(image_id=image_id)
        history: list[str] = []
        for number, turn in enumerate(document.get(dialog, "dialog", list, place), 1):
            where = f"{place}.dialog[{number - 1}]"
            question = _text(document, turn, "question", questions, where)
            answer = _text(document, turn, "answer", answers, where)
            fields = {"history": " ".join(history)}
            sample_id = f"{image_id}-{number}"
            entries.append(Entry(sample_id, str(image_id), name, (answer,), where, question, fields))
            history.append(f"q: {question} a: {answer}")
    return entries


def _text(document: Document, turn: Any, key: str, texts: list[Any], place: str) -> str:
    index = document.get(turn, key, int, place)
    if not 0 <= index < len(texts):
        raise document.fault(f"{place}.{key}", f"is {index}, but data.{key}s has {len(texts)} texts")
    return document.text({key: texts[index]}, key, place)
