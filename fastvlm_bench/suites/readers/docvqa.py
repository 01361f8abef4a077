"""DocVQA: questions about pages of documents, each with one or more accepted answers."""

from fastvlm_bench.suites.annotations import Entry, texts_of, unique
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations",)
LAYOUT = "DocVQA's layout is {data: [{questionId, question, image: 'documents/….png', answers: [TEXT]}]}"


def read(source: Source) -> list[Entry]:
    document = source.document("annotations", LAYOUT)
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for index, row in enumerate(document.rows("data")):
        place = f"data[{index}]"
        question_id = document.identity(row, "questionId", place)
        unique(document, places, question_id, place, "questionId")
        given = document.get(row, "answers", list, place)
        if not given:
            raise document.fault(f"{place}.answers", "is an empty list; the test split has none, give the val file")
        answers = texts_of(document, [{"answer": answer} for answer in given], "answer", f"{place}.answers")
        name = document.text(row, "image", place).removeprefix("documents/")
        question = document.text(row, "question", place)
        entries.append(Entry(question_id, name, name, answers, place, question))
    return entries
