"""A scene as a fixed number of words, one for each image position: what the target `smol` is shown of a picture.

    A picture of a lake at sunset with a small red boat, a large white duck.

The first eight words tell place and time, then each thing has five words, in reading order; the last of them is a
comma, or a full stop. The sentence begins anew until the places are full. Every word is one token of SmolLM2's
vocabulary. Given as text, the sentence repeated told the language model more than the sentence followed by line breaks
or full stops, or than a bare list of the words with each thing's cell.
"""

from fastvlm_bench.world.scenes import COLORS, KINDS, MAX_OBJECTS, PLACES, SIZES, TIMES, Object, Scene

HEADER, EACH, SLOTS = 8, 5, 36
assert HEADER + EACH * MAX_OBJECTS <= SLOTS
NEXT, LAST = ",", "."
SPLIT = {"snowman": ("snow", "man")}
"""Kinds whose name is two tokens. They have one colour only, so that the first stands in the colour's place."""


def slots(scene: Scene) -> list[str]:
    """The words of a scene, SLOTS of them."""
    words = ["A", "picture", "of", "a", scene.place, "at", scene.time, "with"]
    for item in scene.objects:
        words += [*_thing(item), NEXT]
    words[-1] = LAST
    return (words * (SLOTS // len(words) + 1))[:SLOTS]


def _thing(item: Object) -> list[str]:
    color, kind = SPLIT.get(item.kind, (item.color, item.kind))
    return ["a", item.size, color, kind]


def words() -> list[str]:
    """Every word that a slot can hold, in a fixed order."""
    kinds = [SPLIT.get(kind, ("", kind))[1] for kind in KINDS]
    firsts = [first for first, _ in SPLIT.values()]
    fixed = ["A", "picture", "of", "a", "at", "with", NEXT, LAST]
    return list(dict.fromkeys([*fixed, *PLACES, *TIMES, *SIZES, *COLORS, *kinds, *firsts]))


def text_of(word: str) -> str:
    """The word as it is tokenised: with a space before it, unless it is the first or a mark."""
    return word if word in ("A", NEXT, LAST) else " " + word
