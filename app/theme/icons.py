"""The window's icons, drawn on a grid of 20 x 20 with one pen: sharp at every scale, in every colour."""

from __future__ import annotations

import math
from collections.abc import Callable

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QGuiApplication, QIcon, QPainter, QPainterPath, QPen, QPixmap

GRID = 20
_PEN = 1.6


def _path(*strokes: tuple[tuple[float, float], ...]) -> QPainterPath:
    path = QPainterPath()
    for stroke in strokes:
        path.moveTo(*stroke[0])
        for point in stroke[1:]:
            path.lineTo(*point)
    return path


def _lock(p: QPainter) -> None:
    p.drawRoundedRect(QRectF(4.5, 9, 11, 8), 2, 2)
    path = QPainterPath(QPointF(7, 9))
    path.lineTo(7, 6.5)
    path.arcTo(QRectF(7, 3.5, 6, 6), 180, -180)
    path.lineTo(13, 9)
    p.drawPath(path)


def _unlock(p: QPainter) -> None:
    p.drawRoundedRect(QRectF(4.5, 9, 11, 8), 2, 2)
    path = QPainterPath(QPointF(7, 9))
    path.lineTo(7, 5.5)
    path.arcTo(QRectF(7, 2.5, 6, 6), 180, -150)
    p.drawPath(path)


def _dice(p: QPainter) -> None:
    p.drawRoundedRect(QRectF(3.5, 3.5, 13, 13), 3, 3)
    p.setBrush(p.pen().color())
    p.setPen(Qt.PenStyle.NoPen)
    for x, y in ((7, 7), (13, 7), (10, 10), (7, 13), (13, 13)):
        p.drawEllipse(QPointF(x, y), 1.15, 1.15)


def _chevron_down(p: QPainter) -> None:
    p.drawPath(_path(((6, 8.2), (10, 12.2), (14, 8.2))))


def _chevron_right(p: QPainter) -> None:
    p.drawPath(_path(((8.2, 6), (12.2, 10), (8.2, 14))))


def _close(p: QPainter) -> None:
    p.drawPath(_path(((5.5, 5.5), (14.5, 14.5)), ((14.5, 5.5), (5.5, 14.5))))


def _retry(p: QPainter) -> None:
    path = QPainterPath()
    box = QRectF(4, 4, 12, 12)
    path.arcMoveTo(box, 60)
    path.arcTo(box, 60, -290)
    p.drawPath(path)
    p.drawPath(_path(((13.2, 2.2), (13.0, 5.2), (9.9, 5.0))))


def _sun(p: QPainter) -> None:
    p.drawEllipse(QPointF(10, 10), 3.4, 3.4)
    rays = ((10, 2.4, 10, 4), (10, 16, 10, 17.6), (2.4, 10, 4, 10), (16, 10, 17.6, 10))
    diagonal = ((4.6, 4.6, 5.8, 5.8), (14.2, 14.2, 15.4, 15.4), (4.6, 15.4, 5.8, 14.2), (14.2, 5.8, 15.4, 4.6))
    p.drawPath(_path(*(((x1, y1), (x2, y2)) for x1, y1, x2, y2 in rays + diagonal)))


def _moon(p: QPainter) -> None:
    disc, bite = QPainterPath(), QPainterPath()
    disc.addEllipse(QPointF(9.6, 10.4), 6.6, 6.6)
    bite.addEllipse(QPointF(13, 7.2), 5.4, 5.4)
    p.drawPath(disc.subtracted(bite))


def _sizes(p: QPainter) -> None:
    p.drawRoundedRect(QRectF(3.5, 6, 8.5, 10.5), 1.5, 1.5)
    p.drawPath(_path(((8.5, 3.5), (14.5, 3.5), (16.5, 5.5), (16.5, 12))))


def _queue(p: QPainter) -> None:
    p.drawPath(_path(((4, 5.5), (16, 5.5)), ((4, 10), (16, 10)), ((4, 14.5), (11, 14.5))))


def _help(p: QPainter) -> None:
    p.drawEllipse(QPointF(10, 10), 7.2, 7.2)
    path = QPainterPath(QPointF(7.9, 8.1))
    path.cubicTo(8.1, 5.2, 12.5, 5.6, 12.2, 8.2)
    path.cubicTo(12.0, 9.7, 10.1, 9.8, 10.0, 11.5)
    p.drawPath(path)
    p.drawPoint(QPointF(10, 14))


def _tick(p: QPainter) -> None:
    p.drawPath(_path(((4.5, 10.5), (8.3, 14.2), (15.5, 6))))


def _search(p: QPainter) -> None:
    p.drawEllipse(QPointF(8.8, 8.8), 5.0, 5.0)
    p.drawPath(_path(((12.6, 12.6), (16.4, 16.4))))


DRAWINGS: dict[str, Callable[[QPainter], None]] = {
    "lock": _lock,
    "unlock": _unlock,
    "dice": _dice,
    "chevron-down": _chevron_down,
    "chevron-right": _chevron_right,
    "close": _close,
    "retry": _retry,
    "sun": _sun,
    "moon": _moon,
    "sizes": _sizes,
    "queue": _queue,
    "help": _help,
    "tick": _tick,
    "search": _search,
}


def draw(painter: QPainter, name: str, box: QRectF, colour: str) -> None:
    """Draw an icon into a square of the painter's surface."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.translate(box.topLeft())
    painter.scale(box.width() / GRID, box.height() / GRID)
    pen = QPen(QColor(colour), _PEN)
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    pen.setJoinStyle(Qt.PenJoinStyle.RoundJoin)
    painter.setPen(pen)
    painter.setBrush(Qt.BrushStyle.NoBrush)
    DRAWINGS[name](painter)
    painter.restore()


def icon(name: str, colour: str, size: int = GRID) -> QIcon:
    """An icon in one colour, with a pixmap for the scaling of each screen there is."""
    result = QIcon()
    for ratio in {math.ceil(screen.devicePixelRatio()) for screen in QGuiApplication.screens()} or {1}:
        pixmap = QPixmap(size * ratio, size * ratio)
        pixmap.setDevicePixelRatio(ratio)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        draw(painter, name, QRectF(0, 0, size, size), colour)
        painter.end()
        result.addPixmap(pixmap)
    return result
