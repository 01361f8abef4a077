"""What people say about a scene: captions, long descriptions, questions and answers.

Every text is a pure function of the scene and a random generator. The first caption variant is the one the model
is mostly taught, so greedy decoding has a clear mode; the others are what further annotators would write.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastvlm_bench.models.tiny.scenes import COLORS, POSITIONS, SHAPES, Object, Scene

NUMBERS = ("zero", "one", "two", "three", "four", "five")
CAPTION_VARIANTS = 5
CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
DESCRIBE_PROMPT = "Describe this image in detail."
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."


def plural(shape: str) -> str:
    return {"cross": "crosses", "fish": "fish"}.get(shape, shape + "s")


def noun(item: Object, *, size: bool = True, article: str = "a") -> str:
    """A noun phrase such as "a large striped red star"; plain objects have no pattern word."""
    words = [item.size] if size else []
    words += [item.pattern] if item.pattern != "plain" else []
    words += [item.color, item.shape]
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    return " ".join([article, *words])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def relation(a: Object, b: Object) -> str:
    """Where a is, seen from b: by rows first, then by columns."""
    if a.row != b.row:
        return "above" if a.row < b.row else "below"
    return "to the left of" if a.column < b.column else "to the right of"


def _others(count: int) -> str:
    return f"{NUMBERS[count]} other object{'s' if count > 1 else ''}"


def caption(scene: Scene, variant: int) -> str:
    """One sentence about the scene, in one of five manners (0..4)."""
    first, *rest = scene.objects
    ground = f"on a {scene.background} background"
    if not rest:
        return _capital(
            (
                f"{noun(first)} {ground}.",
                f"there is {noun(first)} {ground}.",
                f"{noun(first, size=False)} in the {first.position} of a {scene.background} image.",
                f"a {scene.background} picture with {noun(first)}.",
                f"a single {first.color} {first.shape} {ground}.",
            )[variant]
        )
    second, others = rest[0], len(rest) - 1
    pair = f"{noun(first)} {relation(first, second)} {noun(second)}"
    with_others = f" with {_others(others)}" if others else ""
    listed = [noun(o, size=False) for o in scene.objects]
    return _capital(
        (
            f"{pair}{with_others} {ground}.",
            f"there is {pair} {ground}" + (f", and {_others(others)}." if others else "."),
            f"{', '.join(listed[:-1])} and {listed[-1]} {ground}.",
            f"{noun(second)} {relation(second, first)} {noun(first)}{with_others} {ground}.",
            f"a {scene.background} picture of {NUMBERS[len(scene.objects)]} objects: {noun(first)}, {noun(second)}"
            + (" and more." if others else "."),
        )[variant]
    )


def description(scene: Scene, variant: int = 0) -> str:
    """The long description: count, every object in reading order, neighbours' relations, sizes.

    Variant 0 is what the model is taught; 1 and 2 are what other annotators would write.
    """
    if variant:
        return _other_description(scene, variant)
    objects = scene.objects
    plural_s = "s" if len(objects) > 1 else ""
    lines = [f"The image shows {NUMBERS[len(objects)]} object{plural_s} on a {scene.background} background."]
    for index, item in enumerate(objects):
        place = f"in the {item.position}"
        lines.append(
            (
                f"{_capital(place)} there is {noun(item)}.",
                f"{_capital(place)} we can see {noun(item)}.",
                f"There is also {noun(item)} {place}.",
            )[min(index, 2)]
        )
    for a, b in zip(objects, objects[1:4], strict=False):
        lines.append(f"The {a.color} {a.shape} is {relation(a, b)} the {b.color} {b.shape}.")
    large = sum(o.size == "large" for o in objects)
    small = len(objects) - large
    if len(objects) > 1:
        lines.append(f"In total, {NUMBERS[large]} of them {'is' if large == 1 else 'are'} large and "
                     f"{NUMBERS[small]} {'is' if small == 1 else 'are'} small.")  # fmt: skip
    return " ".join(lines)


def _other_description(scene: Scene, variant: int) -> str:
    objects = scene.objects
    if variant == 1:
        lines = [f"There are {len(objects)} shapes in this picture, and the background is {scene.background}."]
        lines += [f"{_capital(noun(o))} is in the {o.position}." for o in objects]
        lines += [
            f"The {a.shape} is {relation(a, b)} the {b.shape}." for a, b in zip(objects, objects[1:4], strict=False)
        ]
    else:
        lines = [f"This is a {scene.background} image with {NUMBERS[len(objects)]} objects."]
        lines += [f"In the {o.position} of the image there is {noun(o)}." for o in objects]
        large = sum(o.size == "large" for o in objects)
        lines.append(
            f"{_capital(NUMBERS[large])} of the objects are large and {NUMBERS[len(objects) - large]} are small."
        )
    return " ".join(lines)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its one right answer. `kind` names the look-up that it needs."""

    kind: str
    text: str
    answer: str


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """All kinds of question about the scene, one each where the scene allows it, in random order."""
    objects, pick = scene.objects, _picker(rng)
    by_shape, by_color = Counter(o.shape for o in objects), Counter(o.color for o in objects)
    unique = [o for o in objects if by_shape[o.shape] == 1]
    ground = pick(["What color is the background?", "What is the background color?"])
    number = pick(["How many objects are there?", "How many objects are in the image?"])
    out = [
        Question("background", ground, scene.background),
        Question("count", number, str(len(objects))),
        _count_color(pick, by_color),
        _count_shape(pick, by_shape),
        _exists(objects, pick),
        _what_at(objects, pick),
    ]
    if unique:
        out += _about_one(unique, pick)
    lone_colors = [o for o in objects if by_color[o.color] == 1]
    if lone_colors:
        item = pick(lone_colors)
        text = pick([f"What shape is the {item.color} object?", f"What is the {item.color} object?"])
        out.append(Question("shape", text, item.shape))
    if len(unique) >= 2:
        out.append(_relation(unique, pick, rng))
    rng.shuffle(out)
    return out


def _picker(rng: np.random.Generator) -> Callable[..., Any]:
    """Draws one of the given choices."""
    return lambda choices: choices[int(rng.integers(len(choices)))]


def _about_one(unique: list[Object], pick: Callable[..., Any]) -> list[Question]:
    """Colour, size, pattern and place of objects whose shape is there only once."""
    item = pick(unique)
    color = pick([f"What color is the {item.shape}?", f"What is the color of the {item.shape}?"])
    out = [Question("color", color, item.color)]
    item = pick(unique)
    out.append(Question("size", f"Is the {item.shape} small or large?", item.size))
    item = pick(unique)
    pattern = pick([f"Is the {item.shape} plain, striped or dotted?", f"What pattern does the {item.shape} have?"])
    out.append(Question("pattern", pattern, item.pattern))
    item = pick(unique)
    where = pick([f"Where is the {item.shape}?", f"In which part of the image is the {item.shape}?"])
    return [*out, Question("where", where, item.position)]


def _count_color(pick: Callable[..., Any], by_color: Counter[str]) -> Question:
    color = pick(list(by_color)) if pick(range(4)) else pick(list(COLORS))
    return Question("count-color", f"How many {color} objects are there?", str(by_color[color]))


def _count_shape(pick: Callable[..., Any], by_shape: Counter[str]) -> Question:
    shape = pick(list(by_shape)) if pick(range(4)) else pick(SHAPES)
    return Question("count-shape", f"How many {plural(shape)} are there?", str(by_shape[shape]))


def _exists(objects: tuple[Object, ...], pick: Callable[..., Any]) -> Question:
    """Balanced between yes and no; most "no" pair a colour and a shape that are both there, but not together."""
    there = {(o.color, o.shape) for o in objects}
    if pick(range(2)):
        color, shape = pick(sorted(there))
        answer = "yes"
    else:
        mixed = sorted({(a.color, b.shape) for a in objects for b in objects} - there)
        color, shape = pick(mixed) if mixed and pick(range(3)) else (pick(list(COLORS)), pick(SHAPES))
        answer = "yes" if (color, shape) in there else "no"
    start = pick(["Is there a", "Can you see a"])
    return Question("exists", f"{start}{'n' if color[0] in 'aeiou' else ''} {color} {shape}?", answer)


def _what_at(objects: tuple[Object, ...], pick: Callable[..., Any]) -> Question:
    held = {o.position: o.shape for o in objects}
    position = pick(list(held)) if pick(range(5)) else pick(POSITIONS)
    return Question("what-at", f"What is in the {position}?", held.get(position, "nothing"))


def _relation(unique: list[Object], pick: Callable[..., Any], rng: np.random.Generator) -> Question:
    a, b = (unique[i] for i in rng.choice(len(unique), size=2, replace=False))
    truth = relation(a, b)
    opposite = {"above": "below", "below": "above",
                "to the left of": "to the right of", "to the right of": "to the left of"}[truth]  # fmt: skip
    said, answer = (truth, "yes") if pick(range(2)) else (opposite, "no")
    return Question("relation", f"Is the {a.shape} {said} the {b.shape}?", answer)


def human_answers(question: Question, rng: np.random.Generator) -> list[str]:
    """Ten annotators' answers, VQAv2's format: at least seven agree on the right one, the others vary as people do."""
    aside = {
        "gray": ["grey"], "teal": ["blue green", "turquoise"], "tan": ["beige"], "purple": ["violet"],
        "yes": ["yes it is", "yeah"], "no": ["nope", "not"], "nothing": ["none", "empty"],
        "plain": ["solid", "none"],
        "striped": ["stripes", "lines"], "dotted": ["dots", "polka dots"], "large": ["big"],
        "small": ["little", "tiny"],
        "moon": ["crescent"], "cross": ["plus"], "top left": ["upper left"], "bottom right": ["lower right"],
        "center": ["middle"],
    }.get(question.answer, [])  # fmt: skip
    if question.answer.isdigit():
        aside = [NUMBERS[int(question.answer)], str(int(question.answer) + 1)]
    others = int(rng.integers(0, 4)) if aside else 0
    answers = [question.answer] * (10 - others) + [aside[int(rng.integers(len(aside)))] for _ in range(others)]
    rng.shuffle(answers)
    return answers
