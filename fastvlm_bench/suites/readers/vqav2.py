"""VQAv2 and OK-VQA: one file of questions, and one with ten answers to each of them."""

from fastvlm_bench.suites.annotations import ANSWERS_LAYOUT, QUESTIONS_LAYOUT, Entry, read_vqav2
from fastvlm_bench.suites.readers import Source

NEEDS = ("questions", "annotations", "image_name")


def read(source: Source) -> list[Entry]:
    questions = source.document("questions", QUESTIONS_LAYOUT)
    return read_vqav2(questions, source.document("annotations", ANSWERS_LAYOUT), source.settings["image_name"])
