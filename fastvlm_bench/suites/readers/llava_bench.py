"""LLaVA-Bench (in the wild): JSON lines of questions. There are no references: a judge compares answers."""

from fastvlm_bench.suites.annotations import Entry, unique
from fastvlm_bench.suites.readers import Source

NEEDS = ("questions",)
LAYOUT = "each line is {question_id, image: '001.jpg', text, category}"


def read(source: Source) -> list[Entry]:
    document, rows = source.json_lines(source.files["questions"][0], LAYOUT)
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for place, row in rows:
        question_id = document.identity(row, "question_id", place)
        unique(document, places, question_id, place, "question_id")
        name, text = document.text(row, "image", place), document.text(row, "text", place)
        entries.append(Entry(question_id, name, name, (), place, text))
    return entries
