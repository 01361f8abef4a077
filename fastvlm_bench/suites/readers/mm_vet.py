"""MM-Vet: an object of questions by id. Its answers are for a judge, not for string metrics."""

from fastvlm_bench.suites.annotations import Entry
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations",)
LAYOUT = "MM-Vet's layout is {ID: {imagename, question, answer, capability}}"


def read(source: Source) -> list[Entry]:
    document, entries = source.document("annotations", LAYOUT, keyed=True), []
    for sample_id, row in document.table().items():
        place = f"['{sample_id}']"
        name, answer = document.text(row, "imagename", place), document.text(row, "answer", place)
        question = document.text(row, "question", place)
        entries.append(Entry(sample_id, name, name, (answer,), place, question))
    return entries
