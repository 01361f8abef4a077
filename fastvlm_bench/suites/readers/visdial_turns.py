"""VisDial 1.0 as dialogs: one sample a dialog, its rounds as turns, each with the human answer as its reference."""

from dataclasses import replace

from fastvlm_bench.suites.annotations import Entry
from fastvlm_bench.suites.readers import Source
from fastvlm_bench.suites.readers.visdial import LAYOUT, entries_of

NEEDS = ("annotations", "image_name")


def read(source: Source) -> list[Entry]:
    """One entry per dialog; ids are those of the images. No human answer is shown to the model."""
    rounds = entries_of(source.document("annotations", LAYOUT), source.settings["image_name"])
    dialogs: dict[str, list[Entry]] = {}
    for entry in rounds:
        dialogs.setdefault(entry.image_id, []).append(entry)
    return [
        replace(own[0], sample_id=image_id, place=own[0].place.rpartition(".")[0], fields={},
                turns=tuple(entry.question for entry in own), turn_references=tuple(entry.references for entry in own))
        for image_id, own in dialogs.items()
    ]  # fmt: skip
