"""What is on the device: the model's components with their format and bytes, as the engine's ledger tells."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QSizePolicy, QVBoxLayout, QWidget

from app import formatting
from app.shown import Component
from app.state import StudioState
from app.theme.colours import component_colour
from app.theme.theme import theme
from app.widgets.controls import label

_ORDER = ("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder", "transformer", "unet", "vae")
_BAR, _GAP = 8, 12


class _List(QWidget):
    """One bar for all, each component's share in its colour, then a line for each."""

    def __init__(self) -> None:
        super().__init__()
        self.components: list[Component] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme().changed.connect(self.update)

    def sizeHint(self) -> QSize:
        return QSize(180, _BAR + _GAP + len(self.components) * self._line_height())

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._paint_bar(painter)
        for number, component in enumerate(self.components):
            self._paint_line(painter, component, _BAR + _GAP + number * self._line_height())

    def _paint_bar(self, painter: QPainter) -> None:
        total = sum(component.bytes for component in self.components)
        if total == 0:
            return
        colours = theme().colours
        x, room = 0.0, self.width() - 2.0 * (len(self.components) - 1)
        for component in self.components:
            width = max(3.0, room * component.bytes / total)
            colour = QColor(component_colour(colours, component.name))
            if not component.resident:
                colour.setAlphaF(0.3)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            painter.drawRoundedRect(QRectF(x, 0, width, _BAR), 3, 3)
            x += width + 2

    def _paint_line(self, painter: QPainter, component: Component, y: int) -> None:
        colours = theme().colours
        height = self._line_height()
        painter.setPen(Qt.PenStyle.NoPen)
        colour = QColor(component_colour(colours, component.name))
        if not component.resident:
            colour.setAlphaF(0.3)
        painter.setBrush(colour)
        painter.drawRoundedRect(QRectF(0, y + 4, 4, height - 8), 2, 2)
        painter.setFont(theme().font())
        facts = f"{component.format}   {formatting.size(component.bytes)}"
        metrics = painter.fontMetrics()
        room = self.width() - 14 - metrics.horizontalAdvance(facts) - 8
        name = metrics.elidedText(formatting.component(component.name), Qt.TextElideMode.ElideRight, room)
        painter.setPen(QColor(colours.text))
        painter.drawText(QRectF(14, y, room + 1, height), Qt.AlignmentFlag.AlignVCenter, name)
        painter.setPen(QColor(colours.muted))
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(QRectF(0, y, self.width(), height), right, facts)

    def _line_height(self) -> int:
        return max(28, self.fontMetrics().height() + 10)


class ComponentsPanel(QFrame):
    """Hidden until the engine has told something."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._list = _List()
        self._total = label("", "small")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 12)
        layout.setSpacing(8)
        layout.addWidget(label("What is in memory", "title"))
        layout.addWidget(self._list)
        layout.addWidget(self._total)
        self.hide()

    def show_components(self, state: StudioState) -> None:
        """Show the state's components."""
        order = {name: place for place, name in enumerate(_ORDER)}
        found = [component for component in state.components.values() if component.bytes]
        self._list.components = sorted(found, key=lambda component: (order.get(component.name, 99), component.name))
        self._list.updateGeometry()
        self._list.update()
        resident = sum(component.resident for component in found)
        where = {"cpu": "in main memory", "cuda": "on the GPU"}.get(state.accelerator, "on the device")
        self._total.setText(f"{formatting.size(resident)} {where} now" if resident else "nothing loaded now")
        self._list.setAccessibleName(
            ", ".join(f"{formatting.component(c.name)} {c.format} {formatting.size(c.bytes)}" for c in found)
        )
        self.setVisible(bool(found))
