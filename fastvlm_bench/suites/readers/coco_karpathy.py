"""Karpathy's `dataset_coco.json`: one entry per image of the split's `subset`."""

from fastvlm_bench.suites.annotations import KARPATHY_LAYOUT, Entry, read_coco_karpathy
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations", "subset")


def read(source: Source) -> list[Entry]:
    document = source.document("annotations", KARPATHY_LAYOUT)
    return read_coco_karpathy(document, source.settings["subset"], source.settings["images"])
