"""The surface scenes are drawn on: continuous coordinates, antialiasing by supersampling, and the styles.

Coordinates run from (0, 0) at the upper left to (1, 1) at the lower right, whatever the size in pixels. Shapes are
filled polygons and ellipses; a style decides what surrounds a fill (an ink line, a paper's shadow, nothing).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

PIXEL_CELLS = 32  # the pixel style's cells along a side; 128 px / 32 keeps them on the autoencoder's 8 px grid
INK = (38, 32, 44)
CREAM = (250, 241, 222)


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """Linear mixture of two colours: a at t = 0, b at t = 1."""
    return (
        round(a[0] + (b[0] - a[0]) * t),
        round(a[1] + (b[1] - a[1]) * t),
        round(a[2] + (b[2] - a[2]) * t),
    )


def shade(colour: Colour, factor: float) -> Colour:
    """A colour darkened (factor < 1) or lightened (factor > 1), kept in 0..255."""
    return (
        min(255, round(colour[0] * factor)),
        min(255, round(colour[1] * factor)),
        min(255, round(colour[2] * factor)),
    )


class Canvas:
    """A square RGB surface of `size` pixels, drawn at three times that resolution and reduced at the end."""

    SUPERSAMPLING = 3

    def __init__(self, size: int, style: str) -> None:
        self.size = size
        self.style = style
        cells = PIXEL_CELLS if style == "pixel" else size
        self.scale = cells * self.SUPERSAMPLING
        self.image = Image.new("RGB", (self.scale, self.scale))
        self._opaque = ImageDraw.Draw(self.image)
        self._blend = ImageDraw.Draw(self.image, "RGBA")
        self._ink_width = max(1, round(self.scale * 0.0115))

    def vertical_gradient(self, stops: Sequence[tuple[float, Colour]]) -> None:
        """Fill the surface with a gradient through (y, colour) stops sorted by y."""
        height = 64
        column = Image.new("RGB", (1, height))
        rows: list[Colour] = []
        for row in range(height):
            y = (row + 0.5) / height
            rows.append(gradient_at(stops, y))
        column.putdata(rows)
        self.image.paste(column.resize((self.scale, self.scale), Image.Resampling.BILINEAR))

    def polygon(self, points: Sequence[Point], colour: Colour, edge: bool = False) -> None:
        """Fill a polygon. `edge` marks the outline of a whole thing, which ink and paper treat in their ways."""
        s = self.scale
        flat = [value * s for point in points for value in point]
        if edge and self.style == "paper":
            self._shadow(flat)
        self._opaque.polygon(flat, fill=colour)
        if edge and self.style == "ink":
            self._opaque.line(flat + flat[:4], fill=INK, width=self._ink_width, joint="curve")

    def _shadow(self, flat: list[float]) -> None:
        # Two offset copies make a shadow with a soft rim; light falls from the upper left, so it lies right and below,
        # and a little all round so that land layers throw it upward on what is behind them.
        s = self.scale
        for dx, dy, alpha in ((0.004, -0.018, 26), (0.010, -0.007, 44)):
            moved = [v + (dx if i % 2 == 0 else dy) * s for i, v in enumerate(flat)]
            self._blend.polygon(moved, fill=(20, 14, 40, alpha))

    def glow(self, x: float, y: float, radius: float, colour: Colour, alpha: int) -> None:
        """A translucent disc."""
        s = self.scale
        box = ((x - radius) * s, (y - radius) * s, (x + radius) * s, (y + radius) * s)
        self._blend.ellipse(box, fill=(*colour, alpha))

    def veil(self, points: Sequence[Point], colour: Colour, alpha: int) -> None:
        """A translucent polygon."""
        s = self.scale
        self._blend.polygon([value * s for point in points for value in point], fill=(*colour, alpha))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, edge: bool = False) -> None:
        """Fill an ellipse of half axes rx and ry around (x, y)."""
        s = self.scale
        box = ((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s)
        if edge and self.style == "paper":
            for dx, dy, alpha in ((0.004, -0.018, 26), (0.010, -0.007, 44)):
                moved = (box[0] + dx * s, box[1] + dy * s, box[2] + dx * s, box[3] + dy * s)
                self._blend.ellipse(moved, fill=(20, 14, 40, alpha))
        if edge and self.style == "ink":
            self._opaque.ellipse(box, fill=colour, outline=INK, width=self._ink_width)
        else:
            self._opaque.ellipse(box, fill=colour)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, edge: bool = False) -> None:
        """Fill an axis-aligned rectangle."""
        if edge:
            self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), colour, edge=True)
            return
        s = self.scale
        self._opaque.rectangle((x0 * s, y0 * s, x1 * s, y1 * s), fill=colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A polyline of a width in units of the picture's side."""
        s = self.scale
        flat = [value * s for point in points for value in point]
        self._opaque.line(flat, fill=colour, width=max(1, round(width * s)), joint="curve")

    def arc(self, x: float, y: float, radius: float, width: float, colour: Colour, alpha: int) -> None:
        """The upper half of a translucent ring whose outer radius is `radius`."""
        outer = [(x + radius * math.cos(a), y - radius * math.sin(a)) for a in HALF_TURN]
        inner = [(x + (radius - width) * math.cos(a), y - (radius - width) * math.sin(a)) for a in reversed(HALF_TURN)]
        self.veil(outer + inner, colour, alpha)

    def finish(self) -> Image.Image:
        """The picture at its size: reduced, and for the pixel style enlarged again into hard squares."""
        small = self.image.reduce(self.SUPERSAMPLING)
        if self.style != "pixel":
            return small
        return small.resize((self.size, self.size), Image.Resampling.NEAREST)


HALF_TURN = tuple(math.pi * i / 28 for i in range(29))


def gradient_at(stops: Sequence[tuple[float, Colour]], y: float) -> Colour:
    """The colour of a gradient through sorted (y, colour) stops at y."""
    if y <= stops[0][0]:
        return stops[0][1]
    for (y0, c0), (y1, c1) in itertools.pairwise(stops):
        if y <= y1:
            return mix(c0, c1, (y - y0) / (y1 - y0))
    return stops[-1][1]
