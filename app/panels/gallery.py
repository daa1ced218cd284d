"""The history strip: results, newest first, each labelled by the words that changed against the picture before it."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import (
    QAbstractListModel,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QRect,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import QColor, QFontMetrics, QKeyEvent, QPainter, QPainterPath, QPen
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from app import formatting
from app.state import StudioState
from app.theme.theme import theme
from app.widgets.controls import label
from app.widgets.thumbnails import Thumbnails
from core.messages import Result

Index = QModelIndex | QPersistentModelIndex
ResultRole = Qt.ItemDataRole.UserRole
_LARGE, _SMALL = 72, 44
_LABEL_WIDTH = 100


class HistoryModel(QAbstractListModel):
    """The state's history for Qt's views."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._results: list[Result] = []
        self._labels: list[str] = []

    def show_history(self, state: StudioState) -> None:
        """Take the history over; the usual case of one new picture in front keeps the view where it is."""
        new = state.history
        if len(new) == len(self._results) + 1 and new[1:] == self._results:
            self.beginInsertRows(QModelIndex(), 0, 0)
            self._results = list(new)
            self._labels.insert(0, state.label(0))
            self.endInsertRows()
            return
        self.beginResetModel()
        self._results = list(new)
        self._labels = [state.label(index) for index in range(len(new))]
        self.endResetModel()

    def rowCount(self, parent: Index | None = None) -> int:
        """One row a result."""
        return 0 if parent is not None and parent.isValid() else len(self._results)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Label, tooltip, accessible text and the result itself."""
        if not index.isValid() or index.row() >= len(self._results):
            return None
        result = self._results[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._labels[index.row()]
        if role == Qt.ItemDataRole.ToolTipRole:
            facts = f"seed {result.seed} · {result.steps} steps · {result.width} × {result.height}"
            return formatting.tooltip(result.prompt, facts)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self._labels[index.row()]}: {result.prompt}"
        return result if role == ResultRole else None

    def row_of(self, result_id: str) -> int:
        """The row of a result, or -1."""
        return next((row for row, result in enumerate(self._results) if result.id == result_id), -1)


class _Delegate(QStyledItemDelegate):
    def __init__(self, thumbnails: Thumbnails, parent: QWidget) -> None:
        super().__init__(parent)
        self.side = _LARGE
        self._thumbnails = thumbnails

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        metrics = QFontMetrics(theme().font(-1))
        width = metrics.horizontalAdvance(str(index.data())) + 12
        return QSize(max(self.side + 10, min(width, _LABEL_WIDTH + 12)), self.side + 12 + metrics.height())

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
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
        text = QRectF(area.x() + 2, box.bottom() + 3, area.width() - 4, area.bottom() - box.bottom() - 2)
        words = painter.fontMetrics().elidedText(str(index.data()), Qt.TextElideMode.ElideRight, round(text.width()))
        painter.drawText(text, Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignVCenter, words)
        painter.restore()


class _Strip(QListView):
    """A list that lies on its side; the wheel scrolls it along."""

    pressed_key = Signal(int)

    def wheelEvent(self, event: Any) -> None:
        delta = event.angleDelta().y() or event.angleDelta().x()
        bar = self.horizontalScrollBar()
        bar.setValue(bar.value() - delta)
        event.accept()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Delete) and not event.modifiers():
            self.pressed_key.emit(event.key())
            event.accept()
            return
        super().keyPressEvent(event)


class HistoryPanel(QFrame):
    """The bottom of the window."""

    chosen = Signal(object)  # Result: show it and bring its settings back
    opened = Signal(object)  # Result: open its file
    removed = Signal(object)  # Result: take it out of the history
    menu_wanted = Signal(object, QPoint)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.thumbnails = Thumbnails(_LARGE * 3, self)
        self.model = HistoryModel(self)
        self._delegate = _Delegate(self.thumbnails, self)
        self.view = _Strip()
        self.view.setObjectName("history")
        self.view.setAccessibleName("History")
        self.view.setAccessibleDescription("Pictures made so far, newest first. Arrows show one, Enter opens its file.")
        self.view.setModel(self.model)
        self.view.setItemDelegate(self._delegate)
        self.view.setFlow(QListView.Flow.LeftToRight)
        self.view.setWrapping(False)
        self.view.setSpacing(2)
        self.view.setMouseTracking(True)
        self.view.setFrameShape(QFrame.Shape.NoFrame)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.view.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._empty = label("Your pictures will be kept here.", "muted")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 4, 10, 4)
        layout.addWidget(self.view)
        layout.addWidget(self._empty)
        self._connect()
        self.set_compact(False)
        self.show_history(StudioState())

    def show_history(self, state: StudioState) -> None:
        """Show the state's history."""
        self.model.show_history(state)
        some = bool(state.history)
        self.view.setVisible(some)
        self._empty.setVisible(not some)

    def mark(self, result_id: str) -> None:
        """Select the picture that is on the canvas, without choosing it again."""
        row = self.model.row_of(result_id)
        selection = self.view.selectionModel()
        selection.blockSignals(True)
        if row < 0:
            selection.clear()
        else:
            self.view.setCurrentIndex(self.model.index(row))
        selection.blockSignals(False)
        self.view.viewport().update()

    def set_compact(self, compact: bool) -> None:
        """Smaller pictures where the window is low."""
        self._delegate.side = _SMALL if compact else _LARGE
        height = self._delegate.side + 12 + QFontMetrics(theme().font(-1)).height() + 12
        self.setFixedHeight(height)
        self.model.layoutChanged.emit()

    def _connect(self) -> None:
        self.view.clicked.connect(lambda index: self.chosen.emit(index.data(ResultRole)))
        self.view.doubleClicked.connect(lambda index: self.opened.emit(index.data(ResultRole)))
        self.view.selectionModel().currentChanged.connect(self._on_current)
        self.view.pressed_key.connect(self._on_key)
        self.view.customContextMenuRequested.connect(self._on_menu)
        self.thumbnails.ready.connect(self._repaint)
        theme().changed.connect(self._repaint)

    def _repaint(self) -> None:
        self.view.viewport().update()

    def _on_current(self, current: QModelIndex) -> None:
        # a click is told by `clicked`; here come the arrow keys
        if current.isValid() and self.view.hasFocus():
            self.chosen.emit(current.data(ResultRole))

    def _on_key(self, key: int) -> None:
        index = self.view.currentIndex()
        if not index.isValid():
            return
        signal = self.removed if key == Qt.Key.Key_Delete else self.opened
        signal.emit(index.data(ResultRole))

    def _on_menu(self, at: QPoint) -> None:
        index = self.view.indexAt(at)
        if index.isValid():
            self.menu_wanted.emit(index.data(ResultRole), self.view.viewport().mapToGlobal(at))
