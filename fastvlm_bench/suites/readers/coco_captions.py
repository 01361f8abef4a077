"""COCO captions, official form: one entry per image."""

from fastvlm_bench.suites.annotations import COCO_LAYOUT, Entry, read_coco_captions
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations",)


def read(source: Source) -> list[Entry]:
    return read_coco_captions(source.document("annotations", COCO_LAYOUT))
