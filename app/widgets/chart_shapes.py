"""The shapes of the residency chart: layers as areas with their upper edges, and where a layer's name has room."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from PySide6.QtCore import QPointF, QRectF
from PySide6.QtGui import QPainterPath, QPolygonF

from app.chart_scale import Scale
from app.outline import Layers

_FINE = 0.5  # steps closer than this many pixels are one
_SLOPE = 32.0  # steps narrower than this many pixels are drawn as a slope
_LEVEL = 1.5  # edges that differ by fewer pixels count as one line


@dataclass(frozen=True)
class Band:
    """One layer: its area and the line around its top and its sides."""

    name: str
    area: QPainterPath
    edge: QPainterPath


class Shapes:
    """The shapes of some layers, made once for many paints."""

    def __init__(self, layers: Layers, scale: Scale) -> None:
        self.names, self._scale = list(layers.amounts), scale
        self._columns = _columns(layers, scale)

    def bands(self) -> list[Band]:
        """Every layer on top of those before it."""
        bases = [[sum(amounts[:place]) for place in range(len(amounts))] for _, _, amounts in self._columns]
        return [self._band(place, name, bases) for place, name in enumerate(self.names)]

    def room(self, name: str, height: float) -> tuple[QRectF, int] | None:
        """The widest rectangle inside a layer that is at least so high, with the layer's bytes there."""
        place, scale = self.names.index(name), self._scale
        best: tuple[QRectF, int] | None = None
        start, low, high, size = 0.0, 0.0, 0.0, 0
        for left, right, amounts in self._columns:
            base = sum(amounts[:place])
            bottom, top = scale.y(base), scale.y(base + amounts[place])
            if not size or abs(bottom - low) > _LEVEL or abs(top - high) > _LEVEL:
                start, low, high, size = left, bottom, top, amounts[place]
            if low - high >= height and (best is None or right - start > best[0].width()):
                best = (QRectF(start, high, right - start, low - high), size)
        return None if best is None else (self._between_phases(best[0]), best[1])

    def _between_phases(self, box: QRectF) -> QRectF:
        """The widest part of a box that no border between phases runs through."""
        edges = [edge for edge in self._scale.borders if box.left() < edge < box.right()]
        cuts = [box.left(), *edges, box.right()]
        left, right = max(pairwise(cuts), key=lambda cut: cut[1] - cut[0])
        return QRectF(left, box.top(), right - left, box.height())

    def _band(self, place: int, name: str, bases: list[list[int]]) -> Band:
        area, edge = QPainterPath(), QPainterPath()
        run: list[tuple[float, float, int, int]] = []
        for (left, right, amounts), below in zip(self._columns, bases, strict=True):
            if amounts[place]:
                run.append((left, right, below[place], amounts[place]))
            elif run:
                _close(run, self._scale, area, edge)
                run = []
        if run:
            _close(run, self._scale, area, edge)
        return Band(name, area, edge)


def _columns(layers: Layers, scale: Scale) -> list[tuple[float, float, tuple[int, ...]]]:
    """(left, right, bytes of each layer) for every step that can be seen."""
    result: list[tuple[float, float, tuple[int, ...]]] = []
    values = list(layers.amounts.values())
    for number, end in enumerate((*layers.times[1:], layers.end)):
        right = scale.x(max(layers.times[number], end))
        amounts = tuple(amount[number] for amount in values)
        if result and result[-1][1] - result[-1][0] < _FINE:
            result[-1] = (result[-1][0], right, amounts)  # too narrow to be seen: what comes after it counts
        else:
            result.append((result[-1][1] if result else scale.x(layers.times[0]), right, amounts))
    return result


def _close(run: list[tuple[float, float, int, int]], scale: Scale, area: QPainterPath, edge: QPainterPath) -> None:
    """Add one unbroken stretch of a layer."""
    top, bottom = QPolygonF(), QPolygonF()
    for number, (left, right, base, amount) in enumerate(run):
        # blocks that arrive one after another are a slope, what stays for a while is level
        level = right - left > _SLOPE or number == len(run) - 1
        for x in (left, right) if level else (left,):
            top.append(QPointF(x, scale.y(base + amount)))
            bottom.append(QPointF(x, scale.y(base)))
    whole = QPolygonF(top)
    whole.append(list(reversed(bottom.toList())))
    area.addPolygon(whole)
    area.closeSubpath()
    first, last = run[0], run[-1]
    edge.moveTo(first[0], scale.y(first[2]))
    for point in top.toList():
        edge.lineTo(point)
    edge.lineTo(last[1], scale.y(last[2]))
