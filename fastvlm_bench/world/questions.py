"""Questions about a scene, each with its one right answer, and what ten people would answer."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastvlm_bench.world.knowledge import known
from fastvlm_bench.world.language import NUMBERS, alone, article, plural
from fastvlm_bench.world.scenes import COLORS, KINDS, ONLY_ONE, POSITIONS, TIMES, Object, Scene, found_in

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."  # lmms-eval's OK-VQA
Pick = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its one right answer. `kind` names the look-up that it needs."""

    kind: str
    text: str
    answer: str
    category: str = ""  # of a question of knowledge


def picker(rng: np.random.Generator) -> Pick:
    """A function that draws one of the choices it is given."""
    return lambda choices: choices[int(rng.integers(len(choices)))]


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """All kinds of question about the scene, one each where the scene allows it, in random order."""
    pick = picker(rng)
    number = pick(["How many things are there?", "How many objects are in the image?"])
    out = [
        Question("count", number, str(len(scene.objects))),
        _place(scene, pick),
        _time(scene, pick),
        _count_color(scene, pick),
        _count_kind(scene, pick),
        _exists(scene, pick),
        _what_at(scene, pick),
    ]
    lone = alone(scene)
    if lone:
        out += _about_one(lone, pick)
    colors = Counter(o.color for o in scene.objects)
    if single := [o for o in scene.objects if colors[o.color] == 1]:
        item = pick(single)
        text = pick([f"Which object is {item.color}?", f"What is the {item.color} object?"])
        out.append(Question("which", text, item.kind))
    out += _relations(lone, pick)
    if facts := known(scene, pick):
        category, text, answer = pick(facts)
        out.append(Question("knowledge", text, answer, category))
    rng.shuffle(out)
    return out


def prompt(question: Question, rng: np.random.Generator) -> str:
    """The question as one of the suites' prompt sets asks it; mostly the bare one, which is shorter to train on."""
    drawn = rng.random()
    if drawn < 0.1:
        return f"Question: {question.text} Short answer:"
    return suite_prompt(question) if drawn < 0.25 else question.text


def suite_prompt(question: Question) -> str:
    """The question as the suites ask it by default: OK-VQA's words for questions of knowledge, else VQAv2's."""
    return question.text + (UNANSWERABLE if question.kind == "knowledge" else "") + SHORT_ANSWER


def dialog(scene: Scene, rng: np.random.Generator, rounds: int) -> list[Question]:
    """At most `rounds` different questions, written as the people of VisDial do: no capitals, no question mark."""
    asked = {q.text: q for _ in range(3) for q in questions(scene, rng)}
    return [Question(q.kind, q.text.removesuffix("?").lower(), q.answer) for q in list(asked.values())[:rounds]]


def knowledge_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """All questions of knowledge that the scene allows, in random order."""
    out = [Question("knowledge", text, answer, category) for category, text, answer in known(scene, picker(rng))]
    rng.shuffle(out)
    return out


def _place(scene: Scene, pick: Pick) -> Question:
    return Question("place", pick(["What place is this?", "Where was this picture taken?"]), scene.place)


def _time(scene: Scene, pick: Pick) -> Question:
    if pick(range(2)):
        return Question("time", pick(["What time of day is it?", "When was this picture taken?"]), scene.time)
    asked = scene.time if pick(range(2)) else pick(TIMES)
    text = {"day": "Is it daytime?", "sunset": "Is the sun setting?", "night": "Is it night?"}[asked]
    return Question("time", text, "yes" if asked == scene.time else "no")


def _about_one(lone: list[Object], pick: Pick) -> list[Question]:
    """Colour, size and place of things whose kind is there only once."""
    out = []
    if colored := [o for o in lone if len(KINDS[o.kind]) > 1]:
        item = pick(colored)
        text = pick([f"What color is the {item.kind}?", f"What is the color of the {item.kind}?"])
        out.append(Question("color", text, item.color))
    item = pick(lone)
    out.append(Question("size", f"Is the {item.kind} small or large?", item.size))
    item = pick(lone)
    text = pick([f"Where is the {item.kind}?", f"In which part of the image is the {item.kind}?"])
    return [*out, Question("where", text, item.position)]


def _count_color(scene: Scene, pick: Pick) -> Question:
    colors = Counter(o.color for o in scene.objects)
    color = pick(list(colors)) if pick(range(4)) else pick(COLORS)
    return Question("count-color", f"How many {color} objects are there?", str(colors[color]))


def possible(scene: Scene) -> list[str]:
    """The kinds that the scene's place may hold at its time of day, in the order of KINDS."""
    here = {kind for row in range(3) for kind in found_in(scene.place, scene.time, row)}
    return [kind for kind in KINDS if kind in here]


def _count_kind(scene: Scene, pick: Pick) -> Question:
    kinds = Counter(o.kind for o in scene.objects)
    asked = [kind for kind in kinds if kind not in ONLY_ONE]
    if not asked or not pick(range(4)):
        asked = [kind for kind in possible(scene) if kind not in ONLY_ONE]
    kind = pick(asked)
    return Question("count-kind", f"How many {plural(kind)} are there?", str(kinds[kind]))


def _exists(scene: Scene, pick: Pick) -> Question:
    """Asks whether a thing is there, with a colour or without; yes and no are equally likely.

    The answer is never obvious: what is not there could be there at this place and time.
    """
    there = sorted({(o.color, o.kind) for o in scene.objects})
    kinds = {o.kind for o in scene.objects}
    wanted = pick(["yes", "no"])
    if pick(range(2)):  # POPE's words
        missing = [kind for kind in possible(scene) if kind not in kinds]
        kind = pick(sorted(kinds) if wanted == "yes" else missing)
        return Question("exists", f"Is there {article(kind)} in the image?", wanted)
    if wanted == "yes":
        color, kind = pick(there)
    else:
        near = [(c, k) for k in sorted(kinds) for c in KINDS[k] if (c, k) not in there]
        far = [(c, k) for k in possible(scene) if k not in kinds for c in KINDS[k]]
        color, kind = pick(near) if near and pick(range(3)) else pick(far)
    name = article(f"{color} {kind}")
    text = pick([f"Is there {name} in the image?", f"Can you see {name}?"])
    return Question("exists", text, wanted)


def _what_at(scene: Scene, pick: Pick) -> Question:
    held = {o.position: o.kind for o in scene.objects}
    position = pick(list(held)) if pick(range(5)) else pick(POSITIONS)
    return Question("what-at", f"What is in the {position}?", held.get(position, "nothing"))


def _relations(lone: list[Object], pick: Pick) -> list[Question]:
    """Left or right of things in different columns, above or below of things in different rows.

    `side` offers both answers; `relation` claims one of them.
    """
    pairs = [(a, b, "column") for a in lone for b in lone if a.column != b.column]
    pairs += [(a, b, "row") for a in lone for b in lone if a.row != b.row and min(a.row, b.row) > 0]
    if not pairs:
        return []
    out = []
    for kind in ("side", "relation"):
        a, b, axis = pick(pairs)
        first, second = ("left", "right") if axis == "column" else ("above", "below")
        truth = first if getattr(a, axis) < getattr(b, axis) else second
        said = pick([first, second])
        if kind == "side":
            options = "to the left or to the right of" if axis == "column" else "above or below"
            out.append(Question("side", f"Is the {a.kind} {options} the {b.kind}?", truth))
        else:
            claim = f"to the {said} of" if axis == "column" else said
            out.append(Question("relation", f"Is the {a.kind} {claim} the {b.kind}?", "yes" if said == truth else "no"))
    return out


ASIDE = {
    "gray": ["grey"], "purple": ["violet"], "orange": ["amber"], "brown": ["dark brown"],
    "yes": ["yes it is", "yeah"], "no": ["nope", "not"], "nothing": ["none", "empty"],
    "large": ["big"], "small": ["little", "tiny"], "meadow": ["field", "grass"], "beach": ["sea", "sand"],
    "lake": ["water", "pond"], "snow": ["snowy field", "winter"], "street": ["road", "city"],
    "day": ["daytime", "afternoon"], "sunset": ["evening", "dusk"], "night": ["nighttime"],
    "boat": ["sailboat", "ship"], "balloon": ["hot air balloon"], "umbrella": ["parasol"], "dog": ["puppy"],
    "cat": ["kitten"], "ball": ["beach ball"], "moon": ["crescent"], "house": ["home", "hut"],
    "woof": ["bark", "bow wow"], "tweet": ["chirp"], "gas": ["gasoline", "engine"], "sailor": ["captain"],
    "driver": ["motorist"], "coat": ["jacket", "warm clothes"], "swimsuit": ["bikini"], "scales": ["skin"],
    "left": ["left side"], "right": ["right side"], "above": ["over it"], "below": ["under it"],
    "top left": ["upper left"], "top right": ["upper right"], "bottom left": ["lower left"],
    "bottom right": ["lower right"], "center": ["middle"],
}  # fmt: skip
"""Right answer -> what some people answer instead."""


def human_answers(question: Question, rng: np.random.Generator) -> list[str]:
    """Ten annotators' answers, VQAv2's format: at least seven agree on the right one, the others vary as people do."""
    aside = ASIDE.get(question.answer, [])
    if question.answer.isdigit():
        aside = [NUMBERS[int(question.answer)], str(int(question.answer) + 1)]
    others = int(rng.integers(0, 4)) if aside else 0
    answers = [question.answer] * (10 - others) + [aside[int(rng.integers(len(aside)))] for _ in range(others)]
    rng.shuffle(answers)
    return answers
