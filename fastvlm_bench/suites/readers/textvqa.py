"""TextVQA: questions with ten answers each, as plain texts."""

from fastvlm_bench.suites.annotations import ANSWERS, Entry, texts_of, unique
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations",)
LAYOUT = "TextVQA's layout is {data: [{question_id, question, image_id, answers: [TEXT x 10]}]}"


def read(source: Source) -> list[Entry]:
    document = source.document("annotations", LAYOUT)
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for index, row in enumerate(document.rows("data")):
        place = f"data[{index}]"
        question_id = document.identity(row, "question_id", place)
        unique(document, places, question_id, place, "question_id")
        given = document.get(row, "answers", list, place)
        if len(given) != ANSWERS:
            raise document.fault(f"{place}.answers", f"has {len(given)} answers, not {ANSWERS}")
        answers = texts_of(document, [{"answer": answer} for answer in given], "answer", f"{place}.answers")
        image_id = document.identity(row, "image_id", place)
        question = document.text(row, "question", place)
        entries.append(Entry(question_id, image_id, f"{image_id}.jpg", answers, place, question))
    return entries
