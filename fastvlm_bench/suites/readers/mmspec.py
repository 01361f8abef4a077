"""MMSpec: JSON lines of samples with an image and one to four turns. The topic is the group; nothing is scored."""

from fastvlm_bench.suites.annotations import Entry, unique
from fastvlm_bench.suites.readers import Source
from fastvlm_bench.suites.turns import check_marks, turns_of

NEEDS = ("questions",)
LAYOUT = "each line is {id, image: 'mmspec_001.jpg', turns: [TEXT], category, topic}"


def read(source: Source) -> list[Entry]:
    document, rows = source.json_lines(source.files["questions"][0], LAYOUT)
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for place, row in rows:
        sample_id = document.identity(row, "id", place)
        unique(document, places, sample_id, place, "id")
        turns = turns_of(document, row, place)
        check_marks(document, turns, 1, place)
        name, topic = document.text(row, "image", place), document.text(row, "topic", place)
        entries.append(Entry(sample_id, name, name, (), place, turns[0], group=topic, turns=turns))
    return entries
