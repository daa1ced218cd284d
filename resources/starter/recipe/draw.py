"""A scene becomes a picture: sky, things in the sky, land, object, weather.

Run as a script it draws a contact sheet: `python draw.py sheet.png --seed 1 --size 128`.
"""

from __future__ import annotations

import argparse
import math
import random

from canvas import Canvas, Colour, mix
from objects import OBJECT_HEIGHT, OBJECT_PAINTERS, Stamp
from palette import LIGHTS, PAINTS, Light, washed
from PIL import Image
from places import PLACE_PAINTERS, Painter
from scene import Scene, random_scene

RAINBOW: tuple[Colour, ...] = (
    (232, 60, 60),
    (250, 160, 50),
    (252, 224, 80),
    (90, 190, 100),
    (70, 130, 230),
    (140, 80, 200),
)


def draw(scene: Scene, size: int = 128) -> Image.Image:
    """The picture of a scene: RGB, size x size pixels; the same scene and size always give the same bytes."""
    rng = random.Random(scene.layout)
    canvas = Canvas(size, scene.style)
    light = LIGHTS[scene.time]
    if scene.style == "ink":
        light = washed(light)
    top, middle, bottom = light.sky
    canvas.vertical_gradient(((0.0, top), (0.34, middle), (0.68, bottom)))

    side = rng.choice((-1, 1))  # where the object stands; sun and moon take the other side
    x = 0.5 + side * rng.uniform(0.02, 0.2)
    _sky(canvas, light, scene, rng, side)
    PLACE_PAINTERS[scene.place](Painter(canvas, light, rng, "snow" in scene.sky))
    _object(canvas, light, scene, rng, x)
    if "snow" in scene.sky:
        _snow(canvas, rng)
    return canvas.finish()


def _sky(canvas: Canvas, light: Light, scene: Scene, rng: random.Random, side: int) -> None:
    """Everything above the land, in the order far to near."""
    x = 0.5 - side * rng.uniform(0.2, 0.32)
    low = scene.time in ("dawn", "sunset")
    if scene.style == "paper":
        # Rings of paper around where the light comes from make the sky of the paper style.
        y = 0.5 if low else 0.2
        for radius, amount in ((0.62, 0.1), (0.44, 0.12), (0.28, 0.14)):
            canvas.ellipse(
                x, y, radius, radius, mix(mix(light.sky[1], light.sky[2], 0.9 - radius), light.sun, amount), edge=True
            )
    if "stars" in scene.sky:
        _stars(canvas, light, rng)
    if "rainbow" in scene.sky:
        radius = rng.uniform(0.42, 0.5)
        centre = 0.5 + rng.uniform(-0.1, 0.1)
        for i, colour in enumerate(RAINBOW):
            canvas.arc(centre, 0.68, radius - i * 0.024, 0.025, colour, 190)
    if "sun" in scene.sky:
        y = rng.uniform(0.42, 0.5) if low else rng.uniform(0.14, 0.22)
        radius = rng.uniform(0.1, 0.125) if low else rng.uniform(0.075, 0.095)
        canvas.glow(x, y, radius * 1.9, light.sun, 46)
        canvas.glow(x, y, radius * 1.42, light.sun, 70)
        canvas.ellipse(x, y, radius, radius, light.sun, edge=True)
    if "moon" in scene.sky:
        _moon(canvas, light, x, rng.uniform(0.15, 0.24), rng.uniform(0.085, 0.105), rng.choice((-1, 1)))
    if "clouds" in scene.sky:
        for i in range(rng.randint(2, 3)):
            _cloud(
                canvas,
                light,
                (0.2, 0.8, 0.5)[i] + rng.uniform(-0.12, 0.12),
                0.1 + 0.1 * i + rng.uniform(0, 0.06),
                rng.uniform(0.09, 0.13),
            )
    if "birds" in scene.sky:
        cx, cy = 0.5 - side * rng.uniform(0.0, 0.25), rng.uniform(0.18, 0.34)
        for i in range(rng.randint(3, 5)):
            bx = cx + (0.0, -0.11, 0.11, -0.21, 0.22)[i] + rng.uniform(-0.015, 0.015)
            by = cy + (0.0, 0.05, 0.045, 0.1, 0.11)[i] + rng.uniform(-0.015, 0.015)
            w = rng.uniform(0.034, 0.046)
            canvas.line(
                (
                    (bx - w, by - w * 0.5),
                    (bx - w * 0.45, by - w * 0.62),
                    (bx, by),
                    (bx + w * 0.45, by - w * 0.62),
                    (bx + w, by - w * 0.5),
                ),
                light.bird,
                0.013,
            )


def _stars(canvas: Canvas, light: Light, rng: random.Random) -> None:
    colour = mix(light.sun, (255, 255, 255), 0.4)
    for _ in range(rng.randint(11, 15)):
        x, y = rng.random(), rng.uniform(0.02, 0.5)
        r = rng.uniform(0.015, 0.026)
        canvas.polygon(((x, y - r), (x + r * 0.36, y), (x, y + r), (x - r * 0.36, y)), colour)
        canvas.polygon(((x - r, y), (x, y + r * 0.36), (x + r, y), (x, y - r * 0.36)), colour)


def _moon(canvas: Canvas, light: Light, x: float, y: float, radius: float, facing: int) -> None:
    """A crescent as one outline: half a circle, and back along a shallower arc."""
    canvas.glow(x, y, radius * 1.8, light.sun, 30)
    outer = [math.pi * (i / 16 - 0.5) for i in range(17)]
    tilt = 0.42 * facing
    points = [(facing * math.cos(a), math.sin(a)) for a in outer]
    points += [(facing * (0.38 * math.cos(a)), math.sin(a)) for a in reversed(outer)]
    c, s = math.cos(tilt), math.sin(tilt)
    canvas.polygon(
        [(x + radius * (u * c - v * s), y + radius * (u * s + v * c)) for u, v in points], light.sun, edge=True
    )


def _cloud(canvas: Canvas, light: Light, x: float, y: float, w: float) -> None:
    lumps = ((-0.55, 0.0, 0.3), (0.6, 0.02, 0.26), (-0.1, -0.18, 0.44), (0.3, -0.05, 0.34))
    if canvas.style != "flat":
        # The lumps' edges first, then their fills: one outline around the whole cloud.
        for dx, dy, r in lumps:
            canvas.ellipse(x + dx * w, y + dy * w, r * w + 0.006, r * w + 0.006, light.cloud, edge=True)
        canvas.ellipse(x, y + 0.08 * w, 0.86 * w + 0.006, 0.2 * w + 0.006, light.cloud, edge=True)
    for dx, dy, r in lumps:
        canvas.ellipse(x + dx * w, y + dy * w, r * w, r * w, light.cloud)
    canvas.ellipse(x, y + 0.08 * w, 0.86 * w, 0.2 * w, light.cloud)


def _object(canvas: Canvas, light: Light, scene: Scene, rng: random.Random, x: float) -> None:
    height = OBJECT_HEIGHT[scene.object] * rng.uniform(0.94, 1.1)
    foot = rng.uniform(0.86, 0.9)
    if scene.object == "balloon":
        foot = rng.uniform(0.62, 0.7)
    elif scene.object == "boat" and scene.place != "sea":
        # A boat on land floats on a pond.
        canvas.ellipse(x, foot, 0.38, 0.06, mix(light.water[0], light.water[1], 0.35), edge=True)
        canvas.ellipse(x + 0.06, foot + 0.012, 0.22, 0.018, mix(light.water[0], (255, 255, 255), 0.3))
    elif scene.object != "boat" and scene.place == "sea":
        # What cannot swim stands on an island.
        canvas.ellipse(x, foot + 0.02, 0.36, 0.075, light.land((236, 208, 150)), edge=True)
        canvas.ellipse(x, foot + 0.005, 0.3, 0.045, light.land((126, 176, 92)))
    else:
        s = OBJECT_HEIGHT[scene.object] * 0.62
        canvas.veil(
            [(x + s * math.cos(a), foot + 0.022 * math.sin(a)) for a in [math.tau * k / 16 for k in range(16)]],
            (10, 8, 30),
            60,
        )
    stamp = Stamp(canvas, light, PAINTS[scene.colour], x, foot, height, rng.choice((-1, 1)))
    if scene.time == "night" and scene.object in ("house", "castle", "lighthouse", "tent"):
        for radius in (0.5, 0.62, 0.74, 0.86):
            canvas.glow(x, foot - height * 0.4, height * radius, light.window, 9)
    OBJECT_PAINTERS[scene.object](stamp)
    if scene.object == "boat":
        foam = mix(light.water[0], (255, 255, 255), 0.5)
        canvas.ellipse(x, foot + 0.006, height * 0.6, 0.011, foam)


def _snow(canvas: Canvas, rng: random.Random) -> None:
    for _ in range(24):
        r = rng.uniform(0.011, 0.018)
        canvas.ellipse(rng.random(), rng.random(), r, r, (250, 252, 255))


def contact_sheet(pictures: list[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Pictures of one size in rows."""
    side = pictures[0].width
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + gap) + gap), (24, 24, 28))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (gap + (i % columns) * (side + gap), gap + (i // columns) * (side + gap)))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=48)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    contact_sheet([draw(random_scene(rng), args.size) for _ in range(args.count)], 8).save(args.out)


if __name__ == "__main__":
    main()
