"""The world the embedded model sees: coloured shapes on a 3 x 3 grid, sampled and rendered from a seed.

A scene is plain data. Its hash decides whether it belongs to the training or the held-out side, so the two can
never share a scene, whatever seeds are used.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 96
GRID = 3
CELL = IMAGE_SIZE // GRID
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "house", "tree", "fish")
COLORS = {
    "red": (214, 40, 40), "orange": (245, 130, 20), "yellow": (245, 215, 30), "green": (40, 150, 60),
    "blue": (40, 80, 210), "purple": (130, 50, 170), "pink": (250, 130, 190), "brown": (120, 72, 36),
}  # fmt: skip
SIZES = {"small": 18, "large": 29}  # diameters in pixels
PATTERNS = ("plain", "striped", "dotted")
BACKGROUNDS = {
    "white": (245, 245, 245), "gray": (150, 152, 156), "black": (24, 24, 28), "tan": (222, 200, 160),
    "teal": (60, 160, 160),
}  # fmt: skip
POSITIONS = (
    "top left", "top center", "top right", "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
MAX_OBJECTS = 5
_SCALE = 2  # supersampling factor


@dataclass(frozen=True, slots=True)
class Object:
    """One shape. `cell` counts 0..8 in reading order; `dx, dy` in [-1, 1] say where in its cell it lies."""

    shape: str
    color: str
    size: str
    pattern: str
    cell: int
    dx: float
    dy: float

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
    """A background and one to five objects in reading order."""

    background: str
    objects: tuple[Object, ...]
    shade: float  # -1..1, a slight change of the background's brightness

    def digest(self) -> str:
        """SHA-256 of what the scene holds. Jitter and shade do not count: a near copy is the same scene."""
        parts = [self.background] + [f"{o.cell}:{o.size}:{o.pattern}:{o.color}:{o.shape}" for o in self.objects]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    @property
    def held_out(self) -> bool:
        """True for the tenth of all scenes that training never sees."""
        return int(self.digest()[:8], 16) % 10 == 0


def sample_scene(rng: np.random.Generator, *, held_out: bool, min_objects: int = 1) -> Scene:
    """Draw a scene from the wanted side of the split. No two objects share both shape and colour."""
    while True:
        count = int(rng.integers(min_objects, MAX_OBJECTS + 1))
        cells = sorted(rng.choice(GRID * GRID, size=count, replace=False).tolist())
        names: set[tuple[str, str]] = set()
        objects = []
        for cell in cells:
            while (name := (str(rng.choice(SHAPES)), str(rng.choice(list(COLORS))))) in names:
                continue
            names.add(name)
            size, pattern = str(rng.choice(list(SIZES))), str(rng.choice(PATTERNS))
            objects.append(Object(*name, size, pattern, cell, *rng.uniform(-1, 1, size=2).round(2).tolist()))
        scene = Scene(str(rng.choice(list(BACKGROUNDS))), tuple(objects), round(float(rng.uniform(-1, 1)), 2))
        if scene.held_out == held_out:
            return scene


def render(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB image of 96 x 96 pixels, supersampled twice."""
    side = IMAGE_SIZE * _SCALE
    base = np.array(BACKGROUNDS[scene.background], dtype=float) + 8 * scene.shade
    image = Image.new("RGB", (side, side), tuple(int(v) for v in base.clip(0, 255)))
    for item in scene.objects:
        radius = SIZES[item.size] * _SCALE / 2
        slack = CELL * _SCALE / 2 - radius - 1
        x = (item.column + 0.5) * CELL * _SCALE + item.dx * slack
        y = (item.row + 0.5) * CELL * _SCALE + item.dy * slack
        _paint(image, item, x, y, radius)
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)


def _paint(image: Image.Image, item: Object, x: float, y: float, radius: float) -> None:
    box = int(2 * radius) + 4
    mask = Image.new("L", (box, box), 0)
    _OUTLINES[item.shape](ImageDraw.Draw(mask), box / 2, box / 2, radius)
    paint = Image.new("RGB", (box, box), COLORS[item.color])
    draw = ImageDraw.Draw(paint)
    if item.pattern == "striped":
        for offset in range(-box, box, 12):
            draw.line([(offset, box), (offset + box, 0)], fill=tuple(int(0.4 * v) for v in COLORS[item.color]), width=5)
    elif item.pattern == "dotted":
        for row, cy in enumerate(range(5, box, 10)):
            for cx in range(5 + 5 * (row % 2), box, 10):
                draw.ellipse([cx - 3, cy - 3, cx + 3, cy + 3], fill=(255, 255, 255))
    image.paste(paint, (round(x - box / 2), round(y - box / 2)), mask)


def _polygon(points: list[tuple[float, float]]):  # type: ignore[no-untyped-def]
    def outline(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
        draw.polygon([(x + r * px, y + r * py) for px, py in points], fill=255)

    return outline


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.ellipse([x - r, y - r, x + r, y + r], fill=255)


def _moon(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    _circle(draw, x, y, r)
    draw.ellipse([x - 0.25 * r, y - 0.95 * r, x + 1.35 * r, y + 0.65 * r], fill=0)


def _heart(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.ellipse([x - r, y - 0.9 * r, x + 0.02 * r, y + 0.15 * r], fill=255)
    draw.ellipse([x - 0.02 * r, y - 0.9 * r, x + r, y + 0.15 * r], fill=255)
    draw.polygon([(x - 0.93 * r, y - 0.12 * r), (x + 0.93 * r, y - 0.12 * r), (x, y + r)], fill=255)


def _fish(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.ellipse([x - r, y - 0.55 * r, x + 0.5 * r, y + 0.55 * r], fill=255)
    draw.polygon([(x + 0.3 * r, y), (x + r, y - 0.6 * r), (x + r, y + 0.6 * r)], fill=255)


def _tree(draw: ImageDraw.ImageDraw, x: float, y: float, r: float) -> None:
    draw.rectangle([x - 0.22 * r, y + 0.2 * r, x + 0.22 * r, y + r], fill=255)
    draw.ellipse([x - 0.75 * r, y - r, x + 0.75 * r, y + 0.4 * r], fill=255)


_STAR = [
    (math.sin(math.pi * k / 5) * (1 if k % 2 == 0 else 0.42), -math.cos(math.pi * k / 5) * (1 if k % 2 == 0 else 0.42))
    for k in range(10)
]
_CROSS = [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3),
          (-1, 0.3), (-1, -0.3), (-0.3, -0.3)]  # fmt: skip
_HOUSE = [(0, -1), (1, -0.1), (0.72, -0.1), (0.72, 0.95), (-0.72, 0.95), (-0.72, -0.1), (-1, -0.1)]
_OUTLINES = {
    "circle": _circle, "square": _polygon([(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]),
    "triangle": _polygon([(0, -1), (1, 0.85), (-1, 0.85)]), "star": _polygon(_STAR), "heart": _heart,
    "cross": _polygon(_CROSS), "moon": _moon, "house": _polygon(_HOUSE), "tree": _tree, "fish": _fish,
}  # fmt: skip
