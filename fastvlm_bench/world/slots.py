"""A scene as a fixed number of words, one for each image position: what the target `smol` is shown of a picture.

    A lake at sunset with a small red boat middle left a large white duck bottom right . ...

The first six words tell place and time, then each thing has six words, in reading order. Places of things that are not
there hold a full stop and line breaks. Every word is one token of SmolLM2's vocabulary.
"""

from fastvlm_bench.world.scenes import COLORS, GRID, KINDS, MAX_OBJECTS, PLACES, SIZES, TIMES, Object, Scene

HEADER, EACH = 6, 6
SLOTS = HEADER + EACH * MAX_OBJECTS
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
STOP, EMPTY = ".", "\n"
SPLIT = {"snowman": ("snow", "man")}
"""Kinds whose name is two tokens. They have one colour only, so that the first stands in the colour's place."""


def slots(scene: Scene) -> list[str]:
    """The words of a scene, SLOTS of them."""
    words = ["A", scene.place, "at", scene.time, "with", ":"]
    for item in scene.objects:
        words += _thing(item)
    if len(words) < SLOTS:
        words.append(STOP)
    return words + [EMPTY] * (SLOTS - len(words))


def _thing(item: Object) -> list[str]:
    color, kind = SPLIT.get(item.kind, (item.color, item.kind))
    return ["a", item.size, color, kind, ROWS[item.cell // GRID], COLUMNS[item.cell % GRID]]


def words() -> list[str]:
    """Every word that a slot can hold, in a fixed order."""
    kinds = [SPLIT.get(kind, ("", kind))[1] for kind in KINDS]
    firsts = [first for first, _ in SPLIT.values()]
    every = [
        "A",
        "a",
        "at",
        "with",
        ":",
        STOP,
        EMPTY,
        *PLACES,
        *TIMES,
        *SIZES,
        *COLORS,
        *kinds,
        *firsts,
        *ROWS,
        *COLUMNS,
    ]
    return list(dict.fromkeys(every))


def text_of(word: str) -> str:
    """The word as it is tokenised: with a space before it, unless it is the first or a mark."""
    return word if word in ("A", ":", STOP, EMPTY) else " " + word
