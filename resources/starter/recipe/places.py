"""The eight places, drawn from the horizon towards the viewer.

Each function paints its land on the canvas and leaves the foreground free for the object. Coordinates are the
canvas's; `rng` is the scene's layout, so the same scene is always the same picture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from canvas import Canvas, Colour, Point, mix, shade
from palette import Light

SNOW = (244, 248, 255)


class Painter:
    """What every place needs at hand: canvas, light, layout, and the season's effect on land colours."""

    def __init__(self, canvas: Canvas, light: Light, rng: random.Random, snowy: bool) -> None:
        self.canvas = canvas
        self.light = light
        self.rng = rng
        self.snowy = snowy

    def land(self, colour: Colour, depth: float = 0.0) -> Colour:
        """A land colour in this light and season."""
        if self.snowy:
            colour = mix(colour, SNOW, 0.55)
        return self.light.land(colour, depth)

    def ridge(self, base: float, height: float, waves: float) -> list[Point]:
        """A smooth skyline from left to right, around y = base - height / 2."""
        rng = self.rng
        a, b = rng.uniform(0, math.tau), rng.uniform(0, math.tau)
        points = []
        for i in range(25):
            x = i / 24
            wave = 0.65 * math.sin(a + x * math.tau * waves) + 0.35 * math.sin(b + x * math.tau * waves * 2.1)
            points.append((x * 1.04 - 0.02, base - height * (0.5 + 0.5 * wave)))
        return points

    def ground(self, skyline: list[Point], colour: Colour) -> None:
        """Fill everything below a skyline."""
        self.canvas.polygon(
            [(-0.05, 1.06), (-0.05, skyline[0][1]), *skyline, (1.05, skyline[-1][1]), (1.05, 1.06)], colour, edge=True
        )


def mountains(p: Painter) -> None:
    """Two ranges of peaks with lit and shaded faces and snow caps, above a green slope."""
    rng = p.rng
    for row, (base, count, low, high) in enumerate(((0.7, 3, 0.3, 0.42), (0.78, 2, 0.36, 0.5))):
        depth = 0.42 - 0.3 * row
        body, dark = p.land((112, 124, 152), depth), p.land((74, 84, 116), depth)
        cap = p.light.land(SNOW, depth * 0.7)
        shift = rng.uniform(-0.12, 0.12)
        for i in range(count):
            x = (i + 0.5) / count + shift + rng.uniform(-0.06, 0.06)
            h = rng.uniform(low, high)
            w = h * rng.uniform(0.72, 0.9)
            lean = rng.uniform(-0.05, 0.05)
            top = (x + lean, base - h)
            p.canvas.polygon((top, (x + w, base + 0.06), (x - w, base + 0.06)), body, edge=True)
            foot = x + lean + w * 0.16
            p.canvas.polygon((top, (x + w, base + 0.06), (foot, base + 0.06), (x + lean - 0.02, base - h * 0.55)), dark)
            k = 0.34
            left = (top[0] - (lean + w) * k, top[1] + h * k)
            right = (top[0] + (w - lean) * k, top[1] + h * k)
            mid = top[1] + h * k
            p.canvas.polygon(
                (
                    top,
                    right,
                    (top[0] + w * 0.14, mid - 0.03),
                    (top[0] + w * 0.03, mid + 0.02),
                    (top[0] - w * 0.12, mid - 0.025),
                    left,
                ),
                cap,
            )
    p.ground(p.ridge(0.84, 0.07, 0.8), p.land((96, 150, 92), 0.06))
    p.ground(p.ridge(0.94, 0.05, 1.1), p.land((66, 122, 76)))


def hills(p: Painter) -> None:
    """Four overlapping rounded hills in greens, with small round trees."""
    rng = p.rng
    greens = ((150, 196, 122), (126, 184, 92), (98, 164, 74), (72, 140, 62))
    for row, green in enumerate(greens):
        base = 0.64 + 0.1 * row
        skyline = p.ridge(base, 0.17 - 0.02 * row, rng.uniform(0.7, 1.1))
        colour = p.land(green, 0.4 - 0.13 * row)
        p.ground(skyline, colour)
        if row in (1, 2):
            for _ in range(3):
                x, y = rng.choice(skyline[1:-1])
                r = 0.016 + 0.006 * row
                p.canvas.rectangle(x - 0.004, y - r, x + 0.004, y + 0.006, p.land((92, 66, 50), 0.1))
                p.canvas.ellipse(x, y - r * 1.8, r, r * 1.25, p.land((48, 112, 58), 0.25 - 0.1 * row))


def sea(p: Painter) -> None:
    """Water from the horizon to the viewer, lighter far away, with a small swell and foam lines."""
    rng = p.rng
    horizon = rng.uniform(0.58, 0.64)
    far, near = p.light.water
    bands = 6
    for i in range(bands):
        y = horizon + (1 - horizon) * (i / bands) ** 1.35
        colour = mix(far, near, i / (bands - 1))
        if i == 0:
            p.canvas.polygon(((-0.05, y), (1.05, y), (1.05, 1.06), (-0.05, 1.06)), colour, edge=True)
            continue
        phase, count = rng.uniform(0, math.tau), 7 - i * 0.7
        crest = [
            (x / 32 * 1.1 - 0.05, y + 0.003 * (1 + i) * math.sin(phase + x / 32 * math.tau * count)) for x in range(33)
        ]
        p.canvas.polygon([*crest, (1.06, 1.06), (-0.06, 1.06)], colour, edge=p.canvas.style == "paper")
    foam = mix(far, (255, 255, 255), 0.45)
    for _ in range(9):
        t = rng.random()
        x, y = rng.random(), horizon + 0.03 + (0.96 - horizon) * t
        w = 0.02 + 0.05 * t
        p.canvas.line(((x - w, y), (x + w, y)), foam, 0.004 + 0.006 * t)


def desert(p: Painter) -> None:
    """Dunes with a lit and a shaded side, and a cactus or two."""
    rng = p.rng
    sands = ((244, 208, 140), (238, 190, 112), (228, 170, 88))
    for row, sand in enumerate(sands):
        base = 0.68 + 0.11 * row
        depth = 0.3 - 0.13 * row
        x = rng.uniform(0.2, 0.8) if row < 2 else rng.uniform(0.3, 0.7)
        h = (0.15, 0.11, 0.06)[row]
        skyline = []
        for i in range(25):
            u = i / 24 * 1.1 - 0.05
            d = u - x
            rise = math.exp(-((d / 0.34) ** 2)) if d < 0 else math.exp(-((d / 0.24) ** 2))
            skyline.append((u, base - h * rise))
        p.ground(skyline, p.land(sand, depth))
        side = [pt for pt in skyline if pt[0] >= x]
        tail = [(x - 0.02 - 0.16 * t, base - h + (h + 0.1) * t**1.4) for t in (1.0, 0.8, 0.6, 0.4, 0.2, 0.05)]
        p.canvas.polygon([(x, base - h), *side, (1.06, base + 0.1), *tail], p.land(shade(sand, 0.82), depth))
    for _ in range(rng.randint(1, 2)):
        x, y, h = rng.choice((rng.uniform(0.05, 0.2), rng.uniform(0.8, 0.95))), rng.uniform(0.78, 0.84), 0.12
        green = p.land((62, 132, 82), 0.08)
        for dx, y0, y1 in ((0.0, y - h, y), (-0.032, y - h * 0.72, y - h * 0.4), (0.032, y - h * 0.82, y - h * 0.5)):
            p.canvas.line(((x + dx, y0), (x + dx, y1)), green, 0.02)
        p.canvas.line(((x - 0.032, y - h * 0.4), (x, y - h * 0.4)), green, 0.02)
        p.canvas.line(((x + 0.032, y - h * 0.5), (x, y - h * 0.5)), green, 0.02)


def conifer(p: Painter, x: float, y: float, h: float, colour: Colour, edge: bool) -> None:
    """A fir: a trunk and three triangles, standing on (x, y)."""
    p.canvas.rectangle(x - h * 0.04, y - h * 0.16, x + h * 0.04, y, p.land((82, 58, 46), 0.05))
    if not edge:
        w = h * 0.27
        p.canvas.polygon(
            (
                (x, y - h),
                (x + w * 0.62, y - h * 0.62),
                (x + w * 0.34, y - h * 0.62),
                (x + w * 0.86, y - h * 0.36),
                (x + w * 0.5, y - h * 0.36),
                (x + w, y - h * 0.1),
                (x - w, y - h * 0.1),
                (x - w * 0.5, y - h * 0.36),
                (x - w * 0.86, y - h * 0.36),
                (x - w * 0.34, y - h * 0.62),
                (x - w * 0.62, y - h * 0.62),
            ),
            colour,
        )
        return
    for low, high, w in ((0.1, 0.55, 0.27), (0.34, 0.78, 0.23), (0.6, 1.0, 0.17)):
        p.canvas.polygon(((x, y - h * high), (x + h * w, y - h * low), (x - h * w, y - h * low)), colour, edge=True)
    if p.snowy:
        p.canvas.polygon(((x, y - h), (x + h * 0.06, y - h * 0.86), (x - h * 0.06, y - h * 0.86)), p.light.land(SNOW))


def forest(p: Painter) -> None:
    """Three rows of firs, the far ones in haze, above a mossy ground."""
    rng = p.rng
    rows = (
        (0.7, 8, 0.33, 0.42, (52, 116, 92)),
        (0.77, 6, 0.37, 0.22, (38, 104, 72)),
        (0.84, 4, 0.42, 0.04, (24, 84, 56)),
    )
    for row, (base, count, height, depth, green) in enumerate(rows):
        colour = p.land(green, depth)
        p.canvas.rectangle(-0.02, base - 0.04, 1.02, 1.02, p.land((56, 104, 62), depth))
        shift = rng.uniform(-0.05, 0.05)
        for i in range(count):
            x = (i + 0.5) / count + shift + rng.uniform(-0.02, 0.02)
            # The front row opens in the middle, where the object stands.
            if row == 2:
                x = x * 0.34 if i % 2 else 1 - (1 - x) * 0.34
            conifer(p, x, base + rng.uniform(-0.01, 0.02), height * rng.uniform(0.85, 1.15), colour, edge=row > 0)
    p.ground(p.ridge(0.85, 0.03, 1.0), p.land((70, 112, 58)))


def city(p: Painter) -> None:
    """Two rows of towers with lit windows behind a street."""
    rng = p.rng
    for row, (base, tone) in enumerate(((0.8, (134, 150, 178)), (0.82, (84, 98, 132)))):
        depth = 0.4 - 0.32 * row
        x = -0.06 + rng.uniform(0, 0.05)
        while x < 1.02:
            w = rng.uniform(0.11, 0.17)
            h = rng.uniform(0.34, 0.54) if row == 0 else rng.uniform(0.16, 0.36)
            colour = p.land(shade(tone, rng.uniform(0.86, 1.12)), depth)
            p.canvas.rectangle(x, base - h, x + w, base + 0.02, colour, edge=True)
            if p.snowy:
                p.canvas.rectangle(x, base - h, x + w, base - h + 0.014, p.light.land(SNOW))
            elif rng.random() < 0.3:
                p.canvas.rectangle(x + w * 0.46, base - h - 0.06, x + w * 0.54, base - h, colour)
            lit = mix(p.light.window, colour, 0.12)
            dark = shade(colour, 0.78)
            step = 0.046
            columns = max(2, int((w - 0.012) / step)) if row else 0
            x0 = x + (w - columns * step) / 2 + 0.011
            y = base - h + 0.036
            while row and y < base - 0.05:
                for c in range(columns):
                    left = x0 + c * step
                    p.canvas.rectangle(left, y, left + 0.024, y + 0.03, lit if rng.random() < 0.5 else dark)
                y += 0.066
            x += w + (rng.uniform(0.0, 0.03) if row else 0.0)
    p.canvas.rectangle(-0.02, 0.82, 1.02, 1.03, p.land((126, 160, 112)), edge=True)
    p.canvas.rectangle(-0.02, 0.9, 1.02, 1.03, p.land((98, 98, 108)), edge=True)
    shift = rng.uniform(0, 0.1)
    for i in range(6):
        p.canvas.rectangle(i * 0.2 - shift, 0.945, i * 0.2 - shift + 0.1, 0.96, p.land((236, 226, 190)))


def meadow(p: Painter) -> None:
    """Rows of flowers running to the horizon, a low line of bushes at the end."""
    rng = p.rng
    horizon = rng.uniform(0.6, 0.65)
    for i in range(9):
        x = i / 8 + rng.uniform(-0.03, 0.03)
        p.canvas.ellipse(x, horizon, 0.08, rng.uniform(0.025, 0.05), p.land((86, 142, 96), 0.3))
    p.ground([(-0.02, horizon), (1.02, horizon)], p.land((112, 178, 82), 0.05))
    flowers = ((168, 108, 210), (240, 150, 190), (246, 206, 88))
    start = rng.randint(0, 2)
    vanish = rng.uniform(0.35, 0.65)
    for i in range(-7, 8):
        colour = p.land(flowers[(i + start) % 3], 0.05)
        near, width = vanish + i * 0.3, 0.09
        far, thin = vanish + i * 0.085, 0.022
        p.canvas.polygon(
            ((far - thin, horizon + 0.012), (far + thin, horizon + 0.012), (near + width, 1.02), (near - width, 1.02)),
            colour,
        )
    for _ in range(9):
        x, t = rng.random(), rng.random()
        y = horizon + 0.14 + 0.26 * t
        r = 0.009 + 0.008 * t
        p.canvas.ellipse(x, y, r, r, p.land(rng.choice(((255, 244, 230), (255, 226, 120))), 0.0))


def canyon(p: Painter) -> None:
    """Flat-topped buttes with bands of rock above red ground."""
    rng = p.rng
    for row, (base, count) in enumerate(((0.7, 3), (0.76, 2))):
        depth = 0.34 - 0.26 * row
        shift = rng.uniform(-0.1, 0.1)
        for i in range(count):
            x = (i + 0.5) / count + shift + rng.uniform(-0.06, 0.06)
            h = rng.uniform(0.22, 0.36) + 0.05 * row
            w = rng.uniform(0.1, 0.15) + 0.02 * row
            rock = (206, 98, 62)
            slope = base - h * 0.36
            p.canvas.polygon(
                (
                    (x - w * 0.86, base - h),
                    (x + w * 0.86, base - h),
                    (x + w, slope),
                    (x + w * 1.7, base + 0.03),
                    (x - w * 1.7, base + 0.03),
                    (x - w, slope),
                ),
                p.land(rock, depth),
                edge=True,
            )
            for k, tone in ((0.16, (232, 150, 96)), (0.4, (164, 68, 52))):
                y0, y1 = base - h * (1 - k), base - h * (1 - k - 0.13)
                w0 = w * (0.86 + 0.14 * k / 0.64)
                p.canvas.rectangle(x - w0, y0, x + w0, y1, p.land(tone, depth))
            p.canvas.polygon(
                (
                    (x + w * 0.3, base - h),
                    (x + w * 0.86, base - h),
                    (x + w, slope),
                    (x + w * 1.7, base + 0.03),
                    (x + w * 0.62, base + 0.03),
                    (x + w * 0.36, slope),
                ),
                p.land((150, 58, 48), depth),
            )
            if p.snowy:
                p.canvas.rectangle(x - w * 0.86, base - h - 0.012, x + w * 0.86, base - h + 0.01, p.light.land(SNOW))
    p.ground(p.ridge(0.79, 0.05, 0.9), p.land((216, 122, 76), 0.04))
    p.ground(p.ridge(0.9, 0.04, 1.2), p.land((184, 88, 58)))
    for _ in range(4):
        x, y = rng.random(), rng.uniform(0.84, 0.96)
        p.canvas.ellipse(x, y, 0.03, 0.014, p.land((138, 128, 74)))


PLACE_PAINTERS: dict[str, Callable[[Painter], None]] = {
    "mountains": mountains,
    "hills": hills,
    "sea": sea,
    "desert": desert,
    "forest": forest,
    "city": city,
    "meadow": meadow,
    "canyon": canyon,
}
