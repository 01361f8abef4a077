"""Questions of OK-VQA's kind: they ask what everybody knows about things and places, and what no picture shows.

A question is asked only where the scene leaves one answer: exactly one kind in it has the property that is asked for,
and nothing else in it could be meant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastvlm_bench.world.language import ANIMALS
from fastvlm_bench.world.scenes import Scene


@dataclass(frozen=True, slots=True)
class Property:
    """Asks which thing has a property. kinds: those that have it.

    doubtful: kinds that have it in a way; the question is not asked where the scene holds one of them.
    """

    category: str
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    doubtful: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """Asks what is known about the one kind in the scene that is among `answers`.

    meant: what else the words of the question could mean; it is asked only where the scene holds just one of all these.
    """

    category: str
    texts: tuple[str, ...]
    answers: dict[str, str]
    meant: tuple[str, ...] = ()


PROPERTIES = (
    Property("animals", ("Which animal has four legs?", "Which animal here has fur?"), ("cat", "dog")),
    Property("animals", ("Which of these can swim?", "Which animal is at home in the water?"), ("fish", "duck"),
             ("dog", "cat")),
    Property("animals", ("Which animal has wings?", "Which animal lays eggs in a nest?"), ("bird", "duck")),
    Property("objects", ("Which of these flies on a string?", "Which toy needs wind?"), ("kite",)),
    Property("objects", ("Which of these is a toy?", "What toy can be seen?"), ("ball", "kite")),
    Property("vehicles", ("What could carry a person?", "Which of these is used to travel?"),
             ("car", "boat", "balloon")),
    Property("objects", ("What do people live in?", "Which of these has rooms?"), ("house",)),
    Property("objects", ("What keeps a person dry in the rain?", "What gives shade on a hot day?"), ("umbrella",),
             ("tree", "house")),
    Property("plants", ("Which of these is a plant?", "What needs water and light to grow?"), ("tree", "flower")),
    Property("weather", ("What melts when it gets warm?", "Which of these is made of snow?"), ("snowman",)),
    Property("weather", ("What does the light come from?", "What shines from far away?"), ("sun", "moon", "star")),
    Property("weather", ("What can bring rain?", "Which of these is made of water drops?"), ("cloud",)),
)  # fmt: skip
FACTS = (
    Fact("animals", ("What sound does the animal make?", "What would this animal say?"),
         {"dog": "woof", "cat": "meow", "duck": "quack", "bird": "tweet"}, ANIMALS),
    Fact("animals", ("What is a young animal of this kind called?", "What do people call its young?"),
         {"dog": "puppy", "cat": "kitten", "duck": "duckling", "bird": "chick"}, ANIMALS),
    Fact("animals", ("What is the body of this animal covered with?",),
         {"dog": "fur", "cat": "fur", "duck": "feathers", "bird": "feathers", "fish": "scales"}, ANIMALS),
    Fact("vehicles", ("Who steers this vehicle?", "What is the person who steers it called?"),
         {"car": "driver", "boat": "sailor", "balloon": "pilot"}),
    Fact("vehicles", ("What makes this vehicle move?", "What does this vehicle need to move?"),
         {"car": "gas", "boat": "wind", "balloon": "hot air"}),
    Fact("plants", ("What are the colored parts of this plant called?",),
         {"tree": "leaves", "flower": "petals"}),
)  # fmt: skip
PLACE_FACTS = (
    Fact("seasons", ("Which season is it most likely?", "What time of year does this look like?"),
         {"snow": "winter", "beach": "summer"}),
    Fact("weather", ("Is this a warm or a cold place?",), {"snow": "cold", "beach": "warm"}),
    Fact("clothing", ("What would people wear here?",), {"snow": "coat", "beach": "swimsuit"}),
)  # fmt: skip


def known(scene: Scene, pick: Callable[..., Any]) -> list[tuple[str, str, str]]:
    """(category, question, answer) of everything that can be asked about the scene. pick: chooses one of the texts."""
    there = {o.kind for o in scene.objects}
    out = []
    for asked in PROPERTIES:
        meant = there & set(asked.kinds)
        if len(meant) == 1 and not there & set(asked.doubtful):
            out.append((asked.category, pick(asked.texts), meant.pop()))
    for fact in FACTS:
        meant = there & (set(fact.answers) | set(fact.meant))
        if len(meant) == 1 and meant <= set(fact.answers):
            out.append((fact.category, pick(fact.texts), fact.answers[meant.pop()]))
    for fact in PLACE_FACTS:
        if scene.place in fact.answers:
            out.append((fact.category, pick(fact.texts), fact.answers[scene.place]))
    return out
