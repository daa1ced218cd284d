"""The program's mark: blocks of memory that are also hills under a sun."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.theme.colours import DARK

_GRID = 26
# x, y, width of each block on the grid, from the smallest to the largest
_BLOCKS = ((3.0, 8.0, 11.0), (3.0, 13.0, 16.0), (3.0, 18.0, 20.0))


class Mark(QWidget):
    """Drawn in the components' colours (the dark theme's, which shine on either ground), at any size."""

    def __init__(self, size: int = _GRID) -> None:
        super().__init__()
        self.setFixedSize(size, size)
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Three blocks and the sun."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.scale(self.width() / _GRID, self.height() / _GRID)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(DARK.encoder))
        painter.drawEllipse(QRectF(15, 2, 8, 8))
        fills = (DARK.vae, DARK.transformer, DARK.encoder)
        for (x, y, width), colour in zip(_BLOCKS, fills, strict=True):
            painter.setBrush(QColor(colour))
            painter.drawRoundedRect(QRectF(x, y, width, 4), 1.5, 1.5)
