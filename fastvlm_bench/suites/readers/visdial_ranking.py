"""VisDial 1.0 for ranking: per dialog round the right option and, where people judged them, all options' relevances."""

import math
from dataclasses import replace
from typing import Any

from fastvlm_bench.suites.annotations import Document, Entry
from fastvlm_bench.suites.readers import Source, visdial

NEEDS = ("annotations", "image_name")
DENSE_LAYOUT = "the dense annotations are [{image_id, round_id, gt_relevance: [NUMBER]}]"


def read(source: Source) -> list[Entry]:
    """One entry per round, made for the metric `visdial_ranking`.

    Its references are the right option's index, from 0, and where there are any the relevances of all options. Its
    options are the given answers in the file's order, to which indices, relevances and ranks refer.
    """
    document = source.document("annotations", visdial.LAYOUT)
    entries = visdial.entries_of(document, source.settings["image_name"])
    relevances: dict[str, tuple[str, Document, str]] = {}
    for dense in source.documents("dense", DENSE_LAYOUT):
        for index, row in enumerate(dense.listed()):
            place = f"[{index}]"
            image, number = (dense.get(row, key, int, place) for key in ("image_id", "round_id"))
            given = dense.get(row, "gt_relevance", list, place)
            if not given or not all(type(value) in (int, float) and 0 <= value < math.inf for value in given):
                raise dense.fault(f"{place}.gt_relevance", "must be a list of finite numbers of at least 0")
            if f"{image}-{number}" in relevances:
                raise dense.fault(place, f"is image {image}, round {number}, a duplicate id")
            relevances[f"{image}-{number}"] = " ".join(map(str, given)), dense, place
    found = []
    for entry, turn in zip(entries, _turns(document), strict=True):
        texts = _options(document, turn, entry.place)
        options, right = len(texts), turn.get("gt_index")
        if type(right) is not int or not 0 <= right < options:
            raise document.fault(f"{entry.place}.gt_index", f"is {right!r}, but there are {options} options, from 0")
        references: tuple[str, ...] = (str(right),)
        if entry.sample_id in relevances:
            text, dense, place = relevances.pop(entry.sample_id)
            if text.count(" ") + 1 != options:
                problem = f"has {text.count(' ') + 1} numbers for the {options} options of {document.path}"
                raise dense.fault(f"{place}.gt_relevance", problem)
            references = (str(right), text)
        found.append(replace(entry, references=references, options=texts))
    for identity, (_, dense, place) in relevances.items():
        raise dense.fault(place, f"is image-round {identity}, which {document.path} does not have")
    return found


def _options(document: Document, turn: Any, place: str) -> tuple[str, ...]:
    answers, given = document.content["data"]["answers"], document.get(turn, "answer_options", list, place)
    for number, index in enumerate(given):
        if type(index) is not int or not 0 <= index < len(answers):
            raise document.fault(
                f"{place}.answer_options[{number}]", f"is {index!r}, but data.answers has {len(answers)} texts"
            )
        if type(answers[index]) is not str:
            raise document.fault(f"data.answers[{index}]", "is no text")
    return tuple([answers[index] for index in given])


def _turns(document: Document) -> list[Any]:
    return [turn for dialog in document.content["data"]["dialogs"] for turn in dialog["dialog"]]
