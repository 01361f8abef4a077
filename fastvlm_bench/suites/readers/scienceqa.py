"""ScienceQA: the questions of `subset` that have an image. References are the right letter, then all choices."""

from fastvlm_bench.suites.annotations import Entry, texts_of
from fastvlm_bench.suites.choices import asked, chosen
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations", "id_splits", "subset")
LAYOUT = "ScienceQA's layout is {ID: {question, choices: [TEXT], answer: NUMBER, hint, image}}"
SPLITS_LAYOUT = "ScienceQA's layout of pid_splits.json is {test: [ID]}"


def read(source: Source) -> list[Entry]:
    """The question as lmms-eval asks it: `Context: hint`, the question, the lettered choices."""
    document = source.document("annotations", LAYOUT, keyed=True)
    splits, subset = source.document("id_splits", SPLITS_LAYOUT), source.settings["subset"]
    problems, entries = document.table(), []
    for index, problem_id in enumerate(splits.rows(subset)):
        if not isinstance(problem_id, str) or problem_id not in problems:
            raise splits.fault(f"{subset}[{index}]", f"is {problem_id!r}, which is not in {document.path}")
        row, place = problems[problem_id], f"['{problem_id}']"
        if isinstance(row, dict) and row.get("image") is None:
            continue
        image = document.text(row, "image", place)
        choices = [{"choice": choice} for choice in document.get(row, "choices", list, place)]
        texts = texts_of(document, choices, "choice", f"{place}.choices")
        references = chosen(document, document.get(row, "answer", int, place), texts, f"{place}.answer")
        hint = document.get(row, "hint", str, place) if row.get("hint") else ""
        question = asked(document.text(row, "question", place), texts, hint)
        name = f"{problem_id}/{image}"
        entries.append(
            Entry(problem_id, problem_id, name, references, place, question, group=str(row.get("subject", "")))
        )
    if not entries:
        raise document.fault("the file", f"has no question of split '{subset}' with an image")
    return entries
