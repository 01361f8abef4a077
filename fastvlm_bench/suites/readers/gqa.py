"""GQA: an object of questions by id, each with one answer."""

from fastvlm_bench.suites.annotations import Entry
from fastvlm_bench.suites.readers import Source

NEEDS = ("questions",)
LAYOUT = "GQA's layout is {ID: {question, imageId, answer}}"


def read(source: Source) -> list[Entry]:
    document = source.document("questions", LAYOUT, keyed=True)
    entries = []
    for question_id, row in document.table().items():
        place = f"['{question_id}']"
        image_id = document.identity(row, "imageId", place)
        answer = document.text(row, "answer", place)
        question = document.text(row, "question", place)
        types = row.get("types")
        kind = str(types.get("structural") or "") if isinstance(types, dict) else ""
        name = source.settings.get("image_name", "").format(image_id=image_id) or f"{image_id}.jpg"
        entries.append(Entry(question_id, image_id, name, (answer,), place, question, group=kind))
    return entries
