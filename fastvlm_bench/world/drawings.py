"""Draws each kind of thing: large, with an outline and light from above, then reduced to its size and cached.

Figures face right. Their square reaches from -1 to 1 in both directions; y points downwards.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, ...]
PAINT: dict[str, Color] = {
    "red": (216, 46, 46), "orange": (246, 138, 30), "yellow": (250, 218, 52), "green": (58, 162, 74),
    "blue": (50, 98, 220), "purple": (140, 66, 180), "pink": (248, 146, 196), "brown": (134, 84, 46),
    "white": (250, 250, 250), "gray": (150, 152, 158), "black": (48, 48, 56),
}  # fmt: skip
PIXELS = {"small": 27, "large": 38}  # width and height
FLOATING = ("sun", "moon", "star", "cloud", "bird", "balloon", "kite", "boat", "duck", "fish")  # cast no shadow
FINE = 6  # drawn this many times larger, then averaged
WOOD, GLASS, INK, CREAM, BEAK = (112, 72, 42), (176, 216, 240), (34, 34, 40), (252, 246, 232), (244, 146, 40)


class Pen:
    """Draws shapes whose coordinates are in units of half the square."""

    def __init__(self, pixels: int) -> None:
        self.half = pixels * FINE / 2
        self.image = Image.new("RGBA", (pixels * FINE, pixels * FINE), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        # A margin is left for the outline.
        return self.half * (1 + 0.92 * x), self.half * (1 + 0.92 * y)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Color) -> None:
        self.draw.ellipse([*self._at(x - rx, y - ry), *self._at(x + rx, y + ry)], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Color) -> None:
        self.draw.rectangle([*self._at(left, top), *self._at(right, bottom)], fill=fill)

    def shape(self, *points: tuple[float, float], fill: Color) -> None:
        self.draw.polygon([self._at(*p) for p in points], fill=fill)

    def line(self, *points: tuple[float, float], width: float, fill: Color) -> None:
        self.draw.line([self._at(*p) for p in points], fill=fill, width=round(width * self.half), joint="curve")

    def slice(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Color) -> None:
        """Part of an oval, degrees clockwise from the right."""
        self.draw.pieslice([*self._at(x - rx, y - ry), *self._at(x + rx, y + ry)], start, end, fill=fill)


def mix(a: Color, b: Color, share: float) -> Color:
    """Colour a with a share (0 to 1) of colour b mixed in."""
    return tuple(round(p + (q - p) * share) for p, q in zip(a, b, strict=True))


def _sun(pen: Pen, c: Color) -> None:
    for k in range(8):
        a = math.pi * k / 4 + 0.2
        tip, left, right = (1.0, a), (0.62, a - 0.24), (0.62, a + 0.24)
        pen.shape(*[(r * math.cos(t), r * math.sin(t)) for r, t in (tip, left, right)], fill=mix(c, (255, 120, 0), 0.3))
    pen.oval(0, 0, 0.62, 0.62, c)


def _moon(pen: Pen, c: Color) -> None:
    pen.oval(0, 0, 0.92, 0.92, c)
    pen.oval(0.55, -0.28, 0.82, 0.82, (0, 0, 0, 0))


def _star(pen: Pen, c: Color) -> None:
    turns = [(1.0 if k % 2 == 0 else 0.44, math.pi * k / 5) for k in range(10)]
    pen.shape(*[(r * math.sin(t), 0.06 - r * math.cos(t)) for r, t in turns], fill=c)


def _cloud(pen: Pen, c: Color) -> None:
    low = mix(c, (120, 130, 160), 0.25)
    pen.oval(-0.45, 0.25, 0.5, 0.4, low)
    pen.oval(0.45, 0.25, 0.52, 0.42, low)
    for x, y, r in ((-0.5, 0.1, 0.42), (0.0, -0.18, 0.52), (0.5, 0.08, 0.44), (0.0, 0.2, 0.42)):
        pen.oval(x, y, r, r * 0.9, c)


def _bird(pen: Pen, c: Color) -> None:
    dark = mix(c, INK, 0.35)
    pen.shape((0.66, -0.3), (1.0, -0.16), (0.66, -0.06), fill=BEAK)
    pen.shape((-0.4, 0.1), (-1.0, -0.1), (-0.95, 0.35), fill=dark)
    pen.oval(-0.02, 0.18, 0.62, 0.38, c)
    pen.oval(0.5, -0.16, 0.32, 0.32, c)
    pen.shape((-0.3, 0.2), (-0.5, -0.95), (0.28, 0.12), fill=dark)
    pen.oval(0.56, -0.22, 0.09, 0.09, CREAM)
    pen.oval(0.58, -0.22, 0.05, 0.05, INK)


def _balloon(pen: Pen, c: Color) -> None:
    pen.line((-0.4, 0.3), (-0.16, 0.7), width=0.06, fill=WOOD)
    pen.line((0.4, 0.3), (0.16, 0.7), width=0.06, fill=WOOD)
    pen.oval(0, -0.28, 0.68, 0.7, c)
    pen.shape((-0.58, 0.05), (0.58, 0.05), (0.18, 0.5), (-0.18, 0.5), fill=c)
    pen.oval(0, -0.28, 0.26, 0.7, mix(c, CREAM, 0.55))
    pen.box(-0.2, 0.66, 0.2, 0.98, WOOD)


def _kite(pen: Pen, c: Color) -> None:
    light = mix(c, CREAM, 0.5)
    pen.line((0.1, 0.35), (-0.1, 0.6), (0.05, 0.75), (-0.15, 0.98), width=0.07, fill=INK)
    pen.shape((0.1, -1), (0.75, -0.35), (0.1, 0.45), (-0.55, -0.35), fill=c)
    pen.shape((0.1, -1), (0.1, -0.35), (-0.55, -0.35), fill=light)
    pen.shape((0.1, 0.45), (0.1, -0.35), (0.75, -0.35), fill=light)
    pen.shape((-0.1, 0.6), (-0.34, 0.5), (-0.3, 0.74), fill=c)
    pen.shape((-0.05, 0.68), (0.2, 0.56), (0.2, 0.82), fill=c)


def _house(pen: Pen, c: Color) -> None:
    pen.box(0.4, -0.85, 0.62, -0.3, mix(WOOD, INK, 0.2))
    pen.box(-0.78, -0.2, 0.78, 0.96, c)
    pen.shape((0, -0.98), (1.0, -0.14), (-1.0, -0.14), fill=mix(mix(c, INK, 0.45), (150, 60, 40), 0.45))
    pen.box(-0.55, 0.3, -0.1, 0.96, WOOD)
    pen.box(0.16, 0.12, 0.58, 0.5, CREAM)
    pen.box(0.21, 0.17, 0.53, 0.45, GLASS)


def _tree(pen: Pen, c: Color) -> None:
    pen.box(-0.16, 0.2, 0.16, 0.98, WOOD)
    for x, y, r in ((-0.42, 0.02, 0.42), (0.42, 0.02, 0.42), (0.0, -0.46, 0.5), (0.0, 0.06, 0.45)):
        pen.oval(x, y, r, r, c)
    for x, y in ((-0.3, -0.1), (0.2, -0.5), (0.4, 0.05)):
        pen.oval(x, y, 0.13, 0.1, mix(c, CREAM, 0.3))


def _car(pen: Pen, c: Color) -> None:
    pen.shape((-0.62, 0.0), (-0.4, -0.55), (0.3, -0.55), (0.62, 0.0), fill=c)
    pen.shape((-0.46, -0.02), (-0.3, -0.42), (-0.06, -0.42), (-0.06, -0.02), fill=GLASS)
    pen.shape((0.06, -0.02), (0.06, -0.42), (0.24, -0.42), (0.44, -0.02), fill=GLASS)
    pen.shape((-0.98, 0.08), (-0.9, -0.06), (0.7, -0.06), (0.98, 0.12), (0.98, 0.5), (-0.98, 0.5), fill=c)
    pen.oval(0.9, 0.16, 0.09, 0.09, (255, 240, 150))
    for x in (-0.52, 0.52):
        pen.oval(x, 0.5, 0.27, 0.27, INK)
        pen.oval(x, 0.5, 0.12, 0.12, (190, 190, 196))


def _cat(pen: Pen, c: Color) -> None:
    pen.line((-0.35, 0.75), (-0.85, 0.55), (-0.8, -0.05), (-0.62, -0.22), width=0.17, fill=c)
    pen.oval(0.0, 0.52, 0.46, 0.48, c)
    pen.shape((-0.42, -0.35), (-0.42, -0.98), (0.02, -0.6), fill=c)
    pen.shape((0.62, -0.35), (0.62, -0.98), (0.18, -0.6), fill=c)
    pen.oval(0.1, -0.28, 0.54, 0.44, c)
    pen.oval(0.1, 0.6, 0.24, 0.3, mix(c, CREAM, 0.5))
    for x in (-0.1, 0.32):
        pen.oval(x, -0.32, 0.1, 0.12, (150, 210, 90))
        pen.oval(x, -0.32, 0.045, 0.1, INK)
    pen.shape((0.03, -0.14), (0.19, -0.14), (0.11, -0.04), fill=(230, 110, 130))


def _dog(pen: Pen, c: Color) -> None:
    dark = mix(c, INK, 0.4) if sum(c) > 240 else mix(c, CREAM, 0.25)
    pen.line((-0.7, 0.05), (-0.95, -0.45), width=0.15, fill=c)
    for x in (-0.68, -0.4, 0.1, 0.36):
        pen.box(x - 0.02, 0.3, x + 0.17, 0.96, c)
    pen.oval(-0.14, 0.18, 0.68, 0.34, c)
    pen.oval(0.5, -0.36, 0.38, 0.36, c)
    pen.oval(0.8, -0.22, 0.2, 0.17, c)
    pen.oval(0.26, -0.26, 0.15, 0.36, dark)
    pen.oval(0.94, -0.28, 0.08, 0.08, INK)
    pen.oval(0.58, -0.46, 0.08, 0.08, INK if sum(c) > 240 else CREAM)
    pen.line((0.24, 0.08), (0.62, 0.0), width=0.12, fill=(220, 50, 50) if c != PAINT["brown"] else (60, 120, 220))


def _flower(pen: Pen, c: Color) -> None:
    leaf = (54, 140, 60)
    pen.box(-0.06, 0.0, 0.06, 0.98, leaf)
    pen.oval(-0.28, 0.62, 0.26, 0.12, leaf)
    pen.oval(0.28, 0.76, 0.26, 0.12, leaf)
    for k in range(6):
        a = math.pi * k / 3
        pen.oval(0.4 * math.cos(a), -0.36 + 0.4 * math.sin(a), 0.27, 0.27, c)
    pen.oval(0, -0.36, 0.24, 0.24, (250, 200, 40) if c != PAINT["yellow"] else WOOD)


def _ball(pen: Pen, c: Color) -> None:
    pen.oval(0, 0.16, 0.8, 0.8, c)
    for start in (20, 140, 260):
        pen.slice(0, 0.16, 0.8, 0.8, start, start + 50, CREAM)
    pen.oval(0, 0.16, 0.2, 0.2, c)


def _umbrella(pen: Pen, c: Color) -> None:
    pen.box(-0.05, -0.9, 0.05, 0.98, WOOD)
    pen.slice(0, 0.14, 1.0, 1.06, 180, 360, c)
    pen.slice(0, 0.14, 1.0, 1.06, 215, 252, CREAM)
    pen.slice(0, 0.14, 1.0, 1.06, 288, 325, CREAM)


def _snowman(pen: Pen, c: Color) -> None:
    pen.line((-0.3, 0.05), (-0.9, -0.2), width=0.08, fill=WOOD)
    pen.line((0.3, 0.05), (0.9, -0.2), width=0.08, fill=WOOD)
    pen.oval(0, 0.52, 0.52, 0.46, c)
    pen.oval(0, -0.02, 0.38, 0.34, c)
    pen.oval(0, -0.46, 0.3, 0.28, c)
    pen.box(-0.38, -0.7, 0.38, -0.62, INK)
    pen.box(-0.24, -0.98, 0.24, -0.64, INK)
    pen.box(-0.28, -0.28, 0.28, -0.16, (220, 50, 50))
    pen.shape((0.0, -0.48), (0.4, -0.4), (0.0, -0.38), fill=BEAK)
    for x, y in ((-0.1, -0.52), (0.12, -0.52), (0.0, 0.02), (0.0, 0.3), (0.0, 0.56)):
        pen.oval(x, y, 0.055, 0.055, INK)


def _boat(pen: Pen, c: Color) -> None:
    pen.box(-0.08, -0.95, 0.02, 0.4, WOOD)
    pen.shape((0.08, -0.9), (0.82, 0.22), (0.08, 0.22), fill=CREAM)
    pen.shape((-0.16, -0.62), (-0.16, 0.22), (-0.7, 0.22), fill=(226, 232, 240))
    pen.shape((-1.0, 0.36), (1.0, 0.36), (0.66, 0.92), (-0.66, 0.92), fill=c)
    pen.box(-0.92, 0.4, 0.92, 0.5, mix(c, CREAM, 0.6))


def _duck(pen: Pen, c: Color) -> None:
    pen.shape((-0.6, 0.3), (-1.0, -0.05), (-0.5, 0.1), fill=c)
    pen.oval(-0.12, 0.38, 0.72, 0.46, c)
    pen.oval(0.42, -0.34, 0.4, 0.4, c)
    pen.box(0.12, -0.2, 0.5, 0.3, c)
    pen.shape((0.72, -0.4), (1.0, -0.22), (0.72, -0.14), fill=BEAK)
    pen.oval(-0.24, 0.34, 0.4, 0.22, mix(c, INK, 0.25))
    pen.oval(0.52, -0.44, 0.08, 0.08, INK)


def _fish(pen: Pen, c: Color) -> None:
    dark = mix(c, INK, 0.3)
    pen.shape((-0.4, 0.0), (-1.0, -0.5), (-0.85, 0.0), (-1.0, 0.5), fill=dark)
    pen.shape((-0.2, -0.35), (0.1, -0.75), (0.35, -0.35), fill=dark)
    pen.oval(0.14, 0, 0.8, 0.5, c)
    pen.slice(0.14, 0, 0.8, 0.5, 100, 140, mix(c, CREAM, 0.5))
    pen.slice(0.14, 0, 0.8, 0.5, 220, 260, mix(c, CREAM, 0.5))
    pen.oval(0.6, -0.12, 0.15, 0.15, CREAM)
    pen.oval(0.64, -0.12, 0.08, 0.08, INK)


FIGURES: dict[str, Callable[[Pen, Color], None]] = {
    "sun": _sun, "moon": _moon, "star": _star, "cloud": _cloud, "bird": _bird, "balloon": _balloon, "kite": _kite,
    "house": _house, "tree": _tree, "car": _car, "cat": _cat, "dog": _dog, "flower": _flower, "ball": _ball,
    "umbrella": _umbrella, "snowman": _snowman, "boat": _boat, "duck": _duck, "fish": _fish,
}  # fmt: skip


@cache
def drawing(kind: str, color: str, size: str, mirrored: bool) -> Image.Image:
    """The thing as an RGBA image, PIXELS[size] wide and high."""
    pen = Pen(PIXELS[size])
    FIGURES[kind](pen, PAINT[color])
    figure = pen.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else pen.image
    alpha = figure.getchannel("A")
    light = np.linspace(1.12, 0.84, figure.height)[:, None, None]
    lit = (np.asarray(figure.convert("RGB")) * light).clip(0, 255).astype(np.uint8)
    ink = Image.new("RGBA", figure.size, (*mix(PAINT[color], INK, 0.78), 255))
    ink.putalpha(alpha.filter(ImageFilter.MaxFilter(2 * FINE // 2 + 1)))
    ink.paste(Image.fromarray(lit), (0, 0), alpha)
    return ink.reduce(FINE)
