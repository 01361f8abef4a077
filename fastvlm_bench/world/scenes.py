"""The world the embedded model sees: small landscapes with a few things in them, sampled from a seed.

A scene is plain data; `pictures.render` draws it. Its hash decides whether it belongs to the training or the held-out
side, so the two can never share a scene, whatever seeds are used.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

GRID = 3
KINDS: dict[str, tuple[str, ...]] = {
    "sun": ("yellow", "orange"),
    "moon": ("yellow", "white"),
    "star": ("yellow", "white"),
    "cloud": ("white", "gray", "pink"),
    "bird": ("red", "yellow", "blue", "black"),
    "balloon": ("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    "kite": ("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    "house": ("red", "yellow", "blue", "pink", "brown", "white"),
    "tree": ("green", "orange", "pink"),
    "car": ("red", "yellow", "green", "blue", "purple", "white", "black"),
    "cat": ("orange", "white", "gray", "black"),
    "dog": ("brown", "white", "gray", "black"),
    "flower": ("red", "yellow", "blue", "purple", "pink", "white"),
    "ball": ("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    "umbrella": ("red", "orange", "yellow", "green", "blue", "purple", "pink"),
    "snowman": ("white",),
    "boat": ("red", "orange", "yellow", "green", "blue", "brown", "white"),
    "duck": ("yellow", "brown", "white"),
    "fish": ("red", "orange", "yellow", "green", "purple", "pink"),
}
"""Kind of thing -> the colours in which it is found."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "gray", "black")
SIZES = ("small", "large")
TIMES = ("day", "sunset", "night")
SKY = {
    "day": ("sun", "cloud", "bird", "balloon", "kite"), "sunset": ("sun", "cloud", "bird", "balloon", "kite"),
    "night": ("moon", "star", "cloud", "bird"),
}  # fmt: skip
GROUND = {
    "meadow": (("house", "tree", "flower", "dog", "cat"), ("flower", "ball", "tree", "dog", "cat")),
    "beach": (("boat", "fish", "duck"), ("umbrella", "ball", "dog", "cat")),
    "lake": (("boat", "duck", "fish"), ("boat", "duck", "fish")),
    "snow": (("house", "tree", "snowman", "dog"), ("snowman", "tree", "dog", "cat", "ball")),
    "street": (("house", "tree", "umbrella", "cat", "dog"), ("car", "dog", "cat", "ball")),
}
"""Place -> what is found in the middle row and in the bottom row."""
PLACES = tuple(GROUND)
ONLY_ONE = ("sun", "moon")
POSITIONS = (
    "top left", "top center", "top right", "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
VIEWS = 12  # ways in which the same kind of place is drawn
MAX_OBJECTS = 5


@dataclass(frozen=True, slots=True)
class Object:
    """One thing. `cell` counts 0..8 in reading order; `dx, dy` in [-1, 1] say where in its cell it lies."""

    kind: str
    color: str
    size: str
    cell: int
    dx: float
    dy: float
    mirrored: bool = False

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def column(self) -> int:
        return self.cell % GRID

    @property
    def position(self) -> str:
        return POSITIONS[self.cell]


@dataclass(frozen=True, slots=True)
class Scene:
    """A place at a time of day and one to five objects in reading order."""

    place: str
    time: str
    objects: tuple[Object, ...]
    view: int = 0  # 0..VIEWS-1: where the hills and the horizon are; no text mentions it

    def digest(self) -> str:
        """SHA-256 of what the scene holds. Jitter, mirroring and view do not count: a near copy is the same scene."""
        parts = [self.place, self.time] + [f"{o.cell}:{o.size}:{o.color}:{o.kind}" for o in self.objects]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    @property
    def held_out(self) -> bool:
        """True for the tenth of all scenes that training never sees."""
        return int(self.digest()[:8], 16) % 10 == 0


def found_in(place: str, time: str, row: int) -> tuple[str, ...]:
    """The kinds that a row of such a scene may hold."""
    return SKY[time] if row == 0 else GROUND[place][row - 1]


def sample_scene(rng: np.random.Generator, *, held_out: bool, min_objects: int = 1) -> Scene:
    """Draw a scene from the wanted side of the split. Things often come in twos and threes, as in real pictures."""

    def pick(choices: tuple[str, ...] | list[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    while True:
        place, time = pick(PLACES), pick(TIMES)
        count = int(rng.integers(min_objects, MAX_OBJECTS + 1))
        objects: list[Object] = []
        for cell in sorted(rng.choice(GRID * GRID, size=count, replace=False).tolist()):
            lone = [o.kind for o in objects if o.kind in ONLY_ONE]
            allowed = [kind for kind in found_in(place, time, cell // GRID) if kind not in lone]
            again = [o for o in objects if o.kind in allowed]
            if again and rng.random() < 0.3:
                kind, color = again[-1].kind, again[-1].color
                color = color if rng.random() < 0.5 else pick(KINDS[kind])
            else:
                kind = pick(allowed)
                color = pick(KINDS[kind])
            dx, dy = rng.uniform(-1, 1, size=2).round(2).tolist()
            objects.append(Object(kind, color, pick(SIZES), cell, dx, dy, bool(rng.integers(2))))
        scene = Scene(place, time, tuple(objects), int(rng.integers(VIEWS)))
        if scene.held_out == held_out:
            return scene
