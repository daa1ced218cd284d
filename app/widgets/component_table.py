"""Components as a table: each with its colour, format and bytes, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QHelpEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app import formatting
from app.theme.colours import component_colour
from app.theme.theme import theme


@dataclass(frozen=True)
class Line:
    """One component as the table shows it."""

    name: str
    format: str
    bytes: int
    note: str = ""
    why: str = ""


class Table(QWidget):
    """Two lines of text a component, its colour at the side; the reason as a tooltip."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Line] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme().changed.connect(self.update)

    def show_lines(self, lines: list[Line]) -> None:
        """Show these components."""
        if lines != self.lines:
            self.lines = lines
            self.setAccessibleName(
                ". ".join(
                    f"{formatting.component(line.name)}, {line.format}, {formatting.size(line.bytes)}, {line.note}"
                    for line in lines
                )
            )
            self.updateGeometry()
            self.update()

    def sizeHint(self) -> QSize:
        """All lines."""
        return QSize(180, len(self.lines) * self._height())

    def minimumSizeHint(self) -> QSize:
        """Never cut off."""
        return self.sizeHint()

    def event(self, event: object) -> bool:
        """Say why a component is where it is."""
        if isinstance(event, QHelpEvent):
            place = event.pos().y() // self._height()
            line = self.lines[place] if 0 <= place < len(self.lines) else None
            if line is not None:
                facts = f"{formatting.component(line.name)} · {line.format} · {formatting.size(line.bytes)}"
                told = [text for text in (facts, f"{line.note[:1].upper()}{line.note[1:]}.", line.why) if text != "."]
                QToolTip.showText(event.globalPos(), formatting.tooltip(*told), self)
            return True
        return super().event(event)  # type: ignore[arg-type]

    def paintEvent(self, event: QPaintEvent) -> None:
        """A bar in the component's colour, name, format and bytes, and what becomes of it."""
        colours = theme().colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for number, line in enumerate(self.lines):
            top, height = number * self._height(), self._height()
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(component_colour(colours, line.name)))
            painter.drawRoundedRect(QRectF(0, top + 4, 4, height - 8), 2, 2)
            painter.setFont(theme().font())
            metrics = painter.fontMetrics()
            facts = f"{line.format}   {formatting.size(line.bytes)}"
            room = self.width() - 14 - metrics.horizontalAdvance(facts) - 8
            half = metrics.height() + 1
            name = metrics.elidedText(formatting.component(line.name), Qt.TextElideMode.ElideRight, room)
            y = top + (height - 2 * half + 3) / 2 if line.note else top + (height - half) / 2
            painter.setPen(QColor(colours.text))
            painter.drawText(QRectF(14, y, room + 1, half), Qt.AlignmentFlag.AlignVCenter, name)
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(QRectF(0, y, self.width(), half), right, facts)
            painter.setFont(theme().font(-2))
            painter.setPen(QColor(colours.muted))
            note = painter.fontMetrics().elidedText(line.note, Qt.TextElideMode.ElideRight, self.width() - 14)
            painter.drawText(QRectF(14, y + half - 1, self.width() - 14, half), Qt.AlignmentFlag.AlignVCenter, note)

    def _height(self) -> int:
        return 2 * self.fontMetrics().height() + 4
