"""Results for Qt's views: the model over a list of them, and how one is painted."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from PySide6.QtCore import QAbstractListModel, QModelIndex, QPersistentModelIndex, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPainterPath, QPen
from PySide6.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem, QWidget

from app import formatting, words
from app.shelf import Shelf
from app.theme.theme import theme
from app.widgets.thumbnails import Thumbnails
from core.messages import Result

Index = QModelIndex | QPersistentModelIndex
ResultRole = Qt.ItemDataRole.UserRole
_LABEL_GAP = 3


class ResultsModel(QAbstractListModel):
    """One row a result. Labels are made when they are first seen: finding what changed takes its time."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._results: list[Result] = []
        self._searched = False
        self._labels: dict[str, str] = {}

    def show_shelf(self, shelf: Shelf) -> None:
        """Take a shelf's results over. Rows that stay are not touched, so that the view stays where it is."""
        old, new = self._results, list(shelf.results)
        head = _alike(zip(old, new, strict=False))
        most = min(len(old), len(new)) - head
        tail = min(most, _alike(zip(reversed(old), reversed(new), strict=False)))
        gone, come = len(old) - tail, len(new) - tail
        # the one before the change stands next to another one now, and is labelled by what changed against that
        self._forget_labels(new[max(0, head - 1) : come], all_of_them=bool(shelf.query) != self._searched)
        self._searched = bool(shelf.query)
        if gone > head:
            self.beginRemoveRows(QModelIndex(), head, gone - 1)
            self._results = old[:head] + old[gone:]
            self.endRemoveRows()
        if come > head:
            self.beginInsertRows(QModelIndex(), head, come - 1)
            self._results = new
            self.endInsertRows()
        if new:
            self.dataChanged.emit(self.index(0), self.index(len(new) - 1))

    def rowCount(self, parent: Index | None = None) -> int:
        """One row a result."""
        return 0 if parent is not None and parent.isValid() else len(self._results)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Label, tooltip, accessible text and the result itself."""
        if not index.isValid() or index.row() >= len(self._results):
            return None
        result = self._results[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._label(index.row())
        if role == Qt.ItemDataRole.ToolTipRole:
            facts = f"seed {result.seed} · {result.steps} steps · {result.width} × {result.height}"
            return formatting.tooltip(result.prompt, facts)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self._label(index.row())}: {result.prompt}"
        return result if role == ResultRole else None

    def row_of(self, result_id: str) -> int:
        """The row of a result, or -1."""
        return next((row for row, result in enumerate(self._results) if result.id == result_id), -1)

    def _forget_labels(self, results: list[Result], *, all_of_them: bool) -> None:
        if all_of_them:
            self._labels = {}
        for result in results:
            self._labels.pop(result.id, None)

    def _label(self, row: int) -> str:
        """What changed against the picture made before; among those that a search found, what the picture is."""
        result = self._results[row]
        if result.id not in self._labels:
            last = row + 1 == len(self._results)
            before = None if self._searched or last else self._results[row + 1]
            self._labels[result.id] = words.label(result, before)
        return self._labels[result.id]


def _alike(pairs: Iterable[tuple[Result, Result]]) -> int:
    """How many pairs from the beginning on are the same result."""
    return sum(1 for _ in takewhile(lambda pair: pair[0].id == pair[1].id, pairs))


class ResultDelegate(QStyledItemDelegate):
    """A square picture and its label. All are equally wide: a view of thousands need not ask each for its size."""

    def __init__(self, thumbnails: Thumbnails, parent: QWidget) -> None:
        super().__init__(parent)
        self.side = 72
        self._thumbnails = thumbnails

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        """Room for the picture, and for two or three words below it."""
        return QSize(self.side + 28, self.side + 12 + QFontMetrics(theme().font(-1)).height())

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        """Draw one result."""
        colours = theme().colours
        area: QRect = option.rect
        state: QStyle.StateFlag = option.state
        selected = bool(state & QStyle.StateFlag.State_Selected)
        box = QRectF(area.center().x() - self.side / 2 + 0.5, area.y() + 4, self.side, self.side)
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        clip = QPainterPath()
        clip.addRoundedRect(box, 8, 8)
        pixmap = self._thumbnails.get(index.data(ResultRole).file)
        painter.fillPath(clip, QColor(colours.field))
        if pixmap is not None and not pixmap.isNull():
            painter.setClipPath(clip)
            painter.drawPixmap(box, pixmap, QRectF(pixmap.rect()))
            painter.setClipping(False)
        elif pixmap is not None:
            painter.setPen(QColor(colours.muted))
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, "gone")
        hovered = bool(state & QStyle.StateFlag.State_MouseOver)
        if selected or hovered:
            painter.setPen(QPen(QColor(colours.accent if selected else colours.muted), 2))
            painter.drawRoundedRect(box.adjusted(-2, -2, 2, 2), 10, 10)
        painter.setFont(theme().font(-1))
        painter.setPen(QColor(colours.text if selected else colours.muted))
        top = box.bottom() + _LABEL_GAP
        text = QRectF(area.x() + 2, top, area.width() - 4, area.bottom() - top + 1)
        shown = painter.fontMetrics().elidedText(str(index.data()), Qt.TextElideMode.ElideRight, round(text.width()))
        painter.drawText(text, Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignVCenter, shown)
        painter.restore()
