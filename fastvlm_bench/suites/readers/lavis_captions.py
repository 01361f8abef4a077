"""COCO captions as LAVIS stores Karpathy's splits: the image id is read from the file name, in either form."""

from fastvlm_bench.suites.annotations import Entry, texts_of, unique
from fastvlm_bench.suites.readers import Source, coco_id

NEEDS = ("annotations",)
LAYOUT = "LAVIS's layout is [{image: 'val2014/COCO_val2014_….jpg', caption: […]}]"


def read(source: Source) -> list[Entry]:
    document = source.document("annotations", LAYOUT)
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for index, row in enumerate(document.listed()):
        place = f"[{index}]"
        name = document.text(row, "image", place)
        try:
            image_id = coco_id(name)
        except ValueError:
            raise document.fault(f"{place}.image", f"is {name!r}, which ends in no image id") from None
        unique(document, places, image_id, place, "image")
        captions = document.get(row, "caption", list, place)
        wrapped = [{"caption": caption} for caption in captions]
        texts = texts_of(document, wrapped, "caption", f"{place}.caption")
        if not any(text.strip() for text in texts):
            raise document.fault(place, "has no reference caption")
        name, where = name.removeprefix(f"{source.settings['images']}/"), f"{place}.caption[{{}}]"
        entries.append(Entry(image_id, image_id, name, texts, place, where=where))
    return entries
