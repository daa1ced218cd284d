"""The ten objects, each in one paint, standing on a point and as tall as asked.

An object is drawn in its own frame: x to the right from its middle, y upward from its foot, both in units of its
height. `Stamp` maps that frame to the canvas, mirrored when the layout says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from canvas import Canvas, Colour, Point, mix, shade
from palette import Light

WOOD = (112, 74, 52)
SLATE = (62, 62, 84)


class Stamp:
    """An object's own frame on the canvas: foot at (x, y), `height` tall, mirrored if `flip` is -1."""

    def __init__(
        self, canvas: Canvas, light: Light, paint: Colour, x: float, y: float, height: float, flip: int
    ) -> None:
        self.canvas, self.light = canvas, light
        self.x, self.y, self.height, self.flip = x, y, height, flip
        self.main = light.paint(paint)
        self.dark = shade(self.main, 0.7)
        self.pale = mix(self.main, (255, 255, 255), 0.34)
        self.window = light.window
        self.wood = light.paint(WOOD)
        self.slate = light.paint(SLATE)

    def at(self, u: float, v: float) -> Point:
        return (self.x + self.flip * u * self.height, self.y - v * self.height)

    def polygon(self, points: Sequence[Point], colour: Colour, edge: bool = False) -> None:
        self.canvas.polygon([self.at(u, v) for u, v in points], colour, edge)

    def box(self, u0: float, v0: float, u1: float, v1: float, colour: Colour, edge: bool = False) -> None:
        (xa, ya), (xb, yb) = self.at(u0, v0), self.at(u1, v1)
        self.canvas.rectangle(min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb), colour, edge)

    def disc(self, u: float, v: float, ru: float, rv: float, colour: Colour, edge: bool = False) -> None:
        x, y = self.at(u, v)
        self.canvas.ellipse(x, y, ru * self.height, rv * self.height, colour, edge)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        self.canvas.line([self.at(u, v) for u, v in points], colour, width * self.height)


def house(s: Stamp) -> None:
    s.box(0.22, 0.62, 0.36, 1.0, s.dark, edge=True)
    s.box(-0.5, 0.0, 0.5, 0.56, s.main, edge=True)
    s.box(0.16, 0.0, 0.5, 0.56, shade(s.main, 0.86))
    s.polygon(((-0.62, 0.54), (-0.34, 0.94), (0.34, 0.94), (0.62, 0.54)), s.slate, edge=True)
    s.box(-0.1, 0.0, 0.1, 0.32, s.wood)
    s.box(-0.4, 0.18, -0.2, 0.4, s.window)
    s.box(0.2, 0.18, 0.4, 0.4, s.window)


def boat(s: Stamp) -> None:
    s.line(((0.0, 0.1), (0.0, 1.0)), s.wood, 0.045)
    s.polygon(((0.04, 0.98), (0.04, 0.28), (0.56, 0.28)), s.main, edge=True)
    s.polygon(((-0.05, 0.86), (-0.05, 0.28), (-0.44, 0.28)), s.pale, edge=True)
    s.polygon(((-0.62, 0.22), (0.66, 0.22), (0.46, 0.0), (-0.44, 0.0)), s.main, edge=True)
    s.polygon(((-0.53, 0.11), (0.56, 0.11), (0.46, 0.0), (-0.44, 0.0)), s.dark)


def lighthouse(s: Stamp) -> None:
    s.box(-0.26, 0.0, 0.26, 0.07, s.slate)
    s.polygon(((-0.2, 0.06), (0.2, 0.06), (0.13, 0.74), (-0.13, 0.74)), s.main, edge=True)
    s.polygon(((0.06, 0.06), (0.2, 0.06), (0.13, 0.74), (0.04, 0.74)), shade(s.main, 0.84))
    for v in (0.22, 0.48):
        half = 0.2 - 0.07 * (v - 0.06) / 0.68
        s.polygon(((-half, v), (half, v), (half - 0.012, v + 0.1), (-half + 0.012, v + 0.1)), s.dark)
    s.box(-0.18, 0.73, 0.18, 0.78, s.slate)
    s.box(-0.1, 0.78, 0.1, 0.9, (255, 232, 130))
    s.polygon(((-0.15, 0.9), (0.0, 1.03), (0.15, 0.9)), s.slate, edge=True)


def castle(s: Stamp) -> None:
    for u in (-0.5, 0.5):
        s.box(u - 0.15, 0.0, u + 0.15, 0.64, s.main, edge=True)
        s.polygon(((u - 0.2, 0.62), (u, 0.94), (u + 0.2, 0.62)), s.slate, edge=True)
        s.box(u - 0.04, 0.36, u + 0.04, 0.5, s.slate)
    s.box(-0.36, 0.0, 0.36, 0.44, shade(s.main, 0.88), edge=True)
    s.box(-0.16, 0.4, 0.16, 0.76, s.main, edge=True)
    for u in (-0.12, 0.0, 0.12):
        s.box(u - 0.035, 0.76, u + 0.035, 0.83, s.main)
    s.line(((0.0, 0.8), (0.0, 1.04)), s.slate, 0.03)
    s.polygon(((0.0, 1.04), (0.16, 0.98), (0.0, 0.92)), s.main)
    s.box(-0.11, 0.0, 0.11, 0.18, s.slate)
    s.disc(0.0, 0.18, 0.11, 0.1, s.slate)
    s.box(-0.045, 0.53, 0.045, 0.66, s.window)


def tent(s: Stamp) -> None:
    s.polygon(((0.0, 0.92), (-0.72, 0.0), (0.72, 0.0)), s.main, edge=True)
    s.polygon(((0.0, 0.92), (0.34, 0.0), (0.72, 0.0)), s.dark)
    s.polygon(((0.0, 0.66), (-0.2, 0.0), (0.2, 0.0)), s.slate)
    s.polygon(((0.0, 0.66), (-0.2, 0.0), (-0.08, 0.0)), s.pale)
    s.line(((-0.06, 1.0), (0.03, 0.88)), s.wood, 0.04)
    s.line(((0.06, 1.0), (-0.03, 0.88)), s.wood, 0.04)


def balloon(s: Stamp) -> None:
    s.line(((-0.2, 0.36), (-0.07, 0.14)), s.wood, 0.025)
    s.line(((0.2, 0.36), (0.07, 0.14)), s.wood, 0.025)
    outline = [(0.38 * math.sin(a), 0.66 - 0.36 * math.cos(a)) for a in [math.pi * k / 14 for k in range(3, 26)]]
    s.polygon([*outline, (-0.1, 0.26), (0.1, 0.26)], s.main, edge=True)
    for half, colour in ((0.24, s.dark), (0.1, s.main)):
        gore = [(half * math.sin(a), 0.66 - 0.36 * math.cos(a)) for a in [math.pi * k / 10 for k in range(1, 20)]]
        s.polygon([*gore, (-half * 0.3, 0.27), (half * 0.3, 0.27)], colour)
    s.box(-0.1, 0.0, 0.1, 0.15, s.wood, edge=True)


def tree(s: Stamp) -> None:
    s.polygon(((-0.09, 0.0), (0.09, 0.0), (0.05, 0.5), (-0.05, 0.5)), s.wood, edge=True)
    s.line(((0.0, 0.26), (0.16, 0.44)), s.wood, 0.06)
    s.disc(-0.22, 0.56, 0.22, 0.19, s.main, edge=True)
    s.disc(0.24, 0.54, 0.22, 0.19, s.main, edge=True)
    s.disc(0.0, 0.72, 0.3, 0.28, s.main, edge=True)
    for u, v, ru, rv in ((-0.22, 0.56, 0.19, 0.16), (0.24, 0.54, 0.19, 0.16), (0.0, 0.7, 0.27, 0.25)):
        s.disc(u, v, ru, rv, s.main)
    s.disc(0.12, 0.6, 0.2, 0.13, shade(s.main, 0.82))
    s.disc(-0.1, 0.8, 0.13, 0.1, s.pale)


def windmill(s: Stamp) -> None:
    s.polygon(((-0.26, 0.0), (0.26, 0.0), (0.15, 0.6), (-0.15, 0.6)), s.main, edge=True)
    s.polygon(((0.08, 0.0), (0.26, 0.0), (0.15, 0.6), (0.04, 0.6)), shade(s.main, 0.82))
    s.polygon(((-0.19, 0.6), (0.19, 0.6), (0.0, 0.78)), s.slate, edge=True)
    s.box(-0.07, 0.0, 0.07, 0.2, s.wood)
    sail = mix(s.light.cloud, (255, 248, 230), 0.7)
    for k in range(4):
        a = math.pi / 4 + k * math.pi / 2 + 0.12
        c, n = math.cos(a), math.sin(a)
        hub = 0.62
        s.polygon(
            (
                (0.1 * c, hub + 0.1 * n),
                (0.46 * c, hub + 0.46 * n),
                (0.46 * c - 0.13 * n, hub + 0.46 * n + 0.13 * c),
                (0.1 * c - 0.1 * n, hub + 0.1 * n + 0.1 * c),
            ),
            sail,
            edge=True,
        )
        s.line(((0.0, hub), (0.48 * c, hub + 0.48 * n)), s.wood, 0.032)
    s.disc(0.0, 0.62, 0.05, 0.05, s.wood)


def car(s: Stamp) -> None:
    s.polygon(((-0.46, 0.4), (-0.3, 0.74), (0.26, 0.74), (0.48, 0.4)), s.main, edge=True)
    s.polygon(((-0.78, 0.16), (-0.76, 0.4), (-0.5, 0.46), (0.5, 0.46), (0.78, 0.38), (0.82, 0.16)), s.main, edge=True)
    s.polygon(((-0.78, 0.14), (-0.77, 0.26), (0.81, 0.26), (0.82, 0.14)), s.dark)
    s.polygon(((-0.36, 0.44), (-0.25, 0.67), (-0.04, 0.67), (-0.04, 0.44)), s.window)
    s.polygon(((0.03, 0.44), (0.03, 0.67), (0.22, 0.67), (0.36, 0.44)), s.window)
    for u in (-0.45, 0.47):
        s.disc(u, 0.15, 0.16, 0.16, (34, 34, 44))
        s.disc(u, 0.15, 0.07, 0.07, (196, 198, 206))
    s.disc(0.77, 0.33, 0.045, 0.045, (255, 240, 170))


def rocket(s: Stamp) -> None:
    s.polygon(((-0.1, 0.14), (0.1, 0.14), (0.0, -0.04)), (255, 176, 46))
    s.polygon(((-0.13, 0.42), (-0.34, 0.06), (-0.12, 0.14)), s.dark, edge=True)
    s.polygon(((0.13, 0.42), (0.34, 0.06), (0.12, 0.14)), s.dark, edge=True)
    body = [
        (0.19, 0.5),
        (0.17, 0.68),
        (0.1, 0.86),
        (0.0, 1.0),
        (-0.1, 0.86),
        (-0.17, 0.68),
        (-0.19, 0.5),
        (-0.17, 0.3),
        (-0.12, 0.12),
        (0.12, 0.12),
        (0.17, 0.3),
    ]
    s.polygon(body, s.main, edge=True)
    s.polygon(
        ((0.06, 0.12), (0.12, 0.12), (0.17, 0.3), (0.19, 0.5), (0.17, 0.68), (0.1, 0.86), (0.0, 1.0), (0.08, 0.6)),
        shade(s.main, 0.84),
    )
    s.disc(0.0, 0.6, 0.1, 0.1, s.slate)
    s.disc(0.0, 0.6, 0.066, 0.066, s.window)


OBJECT_PAINTERS: dict[str, Callable[[Stamp], None]] = {
    "house": house,
    "boat": boat,
    "lighthouse": lighthouse,
    "castle": castle,
    "tent": tent,
    "balloon": balloon,
    "tree": tree,
    "windmill": windmill,
    "car": car,
    "rocket": rocket,
}

# Heights as fractions of the picture: a lighthouse is tall and thin, a car low and wide, and each covers a like area.
OBJECT_HEIGHT: dict[str, float] = {
    "house": 0.37,
    "boat": 0.42,
    "lighthouse": 0.56,
    "castle": 0.4,
    "tent": 0.34,
    "balloon": 0.5,
    "tree": 0.46,
    "windmill": 0.44,
    "car": 0.32,
    "rocket": 0.52,
}
