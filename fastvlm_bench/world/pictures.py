"""Draws a scene: the landscape at its time of day, shadows, then the things from back to front."""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fastvlm_bench.world.drawings import FLOATING, PIXELS, Color, drawing, mix
from fastvlm_bench.world.scenes import GRID, Scene

IMAGE_SIZE = 120
CELL = IMAGE_SIZE // GRID
SKY_COLORS = {  # above, at the horizon
    "day": ((104, 176, 240), (206, 232, 250)), "sunset": ((110, 84, 152), (255, 176, 104)),
    "night": ((18, 24, 62), (62, 78, 132)),
}  # fmt: skip
LIGHT = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.84, 0.76), "night": (0.5, 0.54, 0.7)}
GROUND_COLORS = {  # at the horizon, in front
    "meadow": ((150, 202, 104), (98, 170, 74)), "beach": ((240, 218, 164), (226, 198, 138)),
    "lake": ((128, 196, 226), (52, 130, 186)), "snow": ((226, 234, 246), (248, 250, 255)),
    "street": ((176, 196, 150), (150, 184, 124)),
}  # fmt: skip
SEA, ROAD, FAR = ((120, 190, 222), (70, 156, 200)), (112, 112, 120), (118, 164, 150)
_FINE = 4


def _bands(top: Color, bottom: Color, height: int) -> np.ndarray:
    """`height` rows from one colour to the other."""
    return np.linspace(top, bottom, height)[:, None, :]


@cache
def landscape(place: str, time: str, view: int) -> Image.Image:
    """The empty place. `view` moves the horizon and the hills."""
    rng = np.random.default_rng([*place.encode(), view])
    horizon = int(rng.integers(CELL - 6, CELL + 1))
    side, light = IMAGE_SIZE, np.array(LIGHT[time])
    rows = np.empty((side, 1, 3))
    rows[:horizon] = _bands(*SKY_COLORS[time], horizon)
    rows[horizon:] = _bands(*GROUND_COLORS[place], side - horizon) * light
    fine = Image.fromarray(rows.clip(0, 255).astype(np.uint8)).resize((side, side)).resize((side * _FINE,) * 2)
    draw = ImageDraw.Draw(fine)

    def lit(color: Color) -> Color:
        return tuple(int(v) for v in np.array(color) * light)

    def wavy(base: float, height: float, length: float, fill: Color, floor: float) -> None:
        """A shape whose upper edge is a wave about row `base` and whose lower edge is row `floor`."""
        phase = rng.uniform(0, 2 * math.pi)
        edge = [(x * _FINE, (base - height * math.sin(2 * math.pi * x / length + phase)) * _FINE)
                for x in range(0, side + 4, 3)]  # fmt: skip
        draw.polygon([*edge, (side * _FINE, floor * _FINE), (0, floor * _FINE)], fill=fill)

    if place in ("meadow", "snow", "lake"):
        hill = mix(lit(FAR if place != "snow" else (190, 204, 226)), SKY_COLORS[time][1], 0.35)
        wavy(horizon - 4, 4, rng.uniform(60, 150), hill, horizon + 1)
    if place in ("meadow", "snow"):
        nearer = lit(mix(*GROUND_COLORS[place], 0.6))
        wavy(2 * CELL - 2, 3, rng.uniform(90, 200), nearer, side)
    if place == "beach":
        sea = np.broadcast_to(_bands(*SEA, CELL * _FINE) * light, (CELL * _FINE, side * _FINE, 3))
        fine.paste(Image.fromarray(sea.astype(np.uint8)), (0, horizon * _FINE))
        wavy(2 * CELL - 1, 2, rng.uniform(50, 90), lit((244, 250, 252)), side)
        wavy(2 * CELL + 2, 2, rng.uniform(60, 110), lit(GROUND_COLORS["beach"][0]), side)
    if place == "street":
        for left in range(int(rng.integers(-12, 0)), side, 15):  # a far town
            top = horizon - int(rng.integers(3, 11))
            draw.rectangle([left * _FINE, top * _FINE, (left + 12) * _FINE, (horizon + 1) * _FINE],
                           fill=mix(lit((150, 158, 178)), SKY_COLORS[time][1], 0.4))  # fmt: skip
        draw.rectangle([0, (2 * CELL + 2) * _FINE, side * _FINE, side * _FINE], fill=lit(ROAD))
        draw.rectangle([0, (2 * CELL - 3) * _FINE, side * _FINE, (2 * CELL + 2) * _FINE], fill=lit((204, 204, 206)))
        start = int(rng.integers(-10, 10))
        for left in range(start, side, 24):
            draw.rectangle([left * _FINE, 112 * _FINE, (left + 12) * _FINE, 114 * _FINE], fill=lit((240, 236, 220)))
    if place in ("lake", "beach"):
        for _ in range(7):
            x = rng.uniform(0, side - 10)
            y = rng.uniform(horizon + 5, side - 3 if place == "lake" else 2 * CELL - 8)
            draw.line([x * _FINE, y * _FINE, (x + rng.uniform(6, 12)) * _FINE, y * _FINE], width=_FINE,
                      fill=lit((196, 228, 244)))  # fmt: skip
    if place == "meadow":
        for _ in range(14):
            x, y = rng.uniform(2, side - 2), rng.uniform(horizon + 8, side - 3)
            draw.line([(x - 2) * _FINE, (y - 3) * _FINE, x * _FINE, y * _FINE, (x + 2) * _FINE, (y - 3) * _FINE],
                      width=_FINE, fill=lit((78, 148, 62)))  # fmt: skip
    return fine.reduce(_FINE)


@cache
def _shadow(width: int) -> Image.Image:
    """A soft dark oval, as transparency."""
    mask = Image.new("L", (width * 2, 16), 0)
    ImageDraw.Draw(mask).ellipse([4, 4, width * 2 - 5, 11], fill=95)
    return mask.filter(ImageFilter.BoxBlur(1)).reduce(2)


def render(scene: Scene) -> Image.Image:
    """Draw the scene as an RGB image, 120 x 120 pixels."""
    image = landscape(scene.place, scene.time, scene.view).copy()
    for item in scene.objects:
        pixels = PIXELS[item.size]
        slack = (CELL - pixels) / 2
        x = round(item.column * CELL + slack * (1 + item.dx))
        y = round(item.row * CELL + slack * (1 + item.dy))
        if item.kind not in FLOATING:
            shadow = _shadow(pixels)
            image.paste((20, 26, 40), (x, y + pixels - 6), shadow)
        figure = drawing(item.kind, item.color, item.size, item.mirrored)
        image.paste(figure, (x, y), figure)
    return image
