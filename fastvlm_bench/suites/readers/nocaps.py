"""NoCaps: COCO's form, and each image's domain, in the captions file itself or in the image-info file."""

from dataclasses import replace

from fastvlm_bench.suites.annotations import Document, Entry, read_coco_captions
from fastvlm_bench.suites.readers import Source

NEEDS = ("annotations",)
DOMAINS = ("in-domain", "near-domain", "out-domain")
LAYOUT = "NoCaps's layout is {images: [{id, file_name, domain}], annotations: [{image_id, caption}]}"


def read(source: Source) -> list[Entry]:
    """All images, each with its domain if a file tells it. With a `subset`, only the images of that domain."""
    document = source.document("annotations", LAYOUT)
    entries, domains = read_coco_captions(document), _domains(document)
    for extra in source.documents("image_info", LAYOUT) if len(domains) < len(entries) else ():
        domains |= _domains(extra)
    entries = [replace(e, group=domains.get(e.sample_id, "")) for e in entries]
    wanted = source.settings.get("subset", "")
    if not wanted:
        return entries
    if lacking := [entry for entry in entries if entry.sample_id not in domains]:
        problem = f"has no domain, nor has {len(lacking) - 1} other; nocaps_val_image_info.json gives it"
        raise document.fault(lacking[0].place, problem)
    found = [entry for entry in entries if domains[entry.sample_id] == wanted]
    if not found:
        raise document.fault("'images'", f"has none of domain '{wanted}'")
    return found


def _domains(document: Document) -> dict[str, str]:
    domains: dict[str, str] = {}
    for index, row in enumerate(document.rows("images")):
        place = f"images[{index}]"
        if isinstance(row, dict) and "domain" not in row:
            continue
        domain = document.get(row, "domain", str, place)
        if domain not in DOMAINS:
            raise document.fault(f"{place}.domain", f"is {domain!r}, not one of {', '.join(DOMAINS)}")
        domains[document.identity(row, "id", place)] = domain
    return domains
