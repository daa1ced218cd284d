"""The history strip: results, newest first, each labelled by the words that changed; and the search among them."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QModelIndex, QPoint, Qt, Signal
from PySide6.QtGui import QFontMetrics, QKeyEvent
from PySide6.QtWidgets import QAbstractItemView, QFrame, QHBoxLayout, QListView, QVBoxLayout, QWidget

from app.shelf import Shelf
from app.state import StudioState
from app.theme.theme import theme
from app.widgets.controls import label, row
from app.widgets.results import ResultDelegate, ResultRole, ResultsModel
from app.widgets.search import SearchField
from app.widgets.thumbnails import Thumbnails

_LARGE, _SMALL = 72, 44
# More is loaded when fewer than this many widths of the strip are left to scroll.
_AHEAD = 2


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
    searched = Signal(str)
    more_wanted = Signal()  # the end of what is loaded comes into sight

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.thumbnails = Thumbnails(_LARGE * 3, self)
        self.model = ResultsModel(self)
        self._delegate = ResultDelegate(self.thumbnails, self)
        self.view = _Strip()
        self.view.setObjectName("history")
        self.view.setAccessibleName("History")
        self.view.setAccessibleDescription("Pictures made so far, newest first. Arrows show one, Enter opens its file.")
        self.view.setModel(self.model)
        self.view.setItemDelegate(self._delegate)
        self.view.setFlow(QListView.Flow.LeftToRight)
        self.view.setWrapping(False)
        self.view.setUniformItemSizes(True)
        self.view.setMouseTracking(True)
        self.view.setFrameShape(QFrame.Shape.NoFrame)
        self.view.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.view.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.search = SearchField("Search the history", "Search prompts")
        self._title = label("History", "title")
        self._count = label("", "small")
        self._empty = label("", "muted")
        self._empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._lay_out()
        self._connect()
        self.set_compact(False)
        self.show_history(StudioState())

    @property
    def message(self) -> str:
        """What it says where there are no pictures."""
        return self._empty.text() if not self._empty.isHidden() else ""

    def show_history(self, state: StudioState) -> None:
        """Show what the state's history shows: all results, or those that were searched for."""
        shelf = state.shelves.shown
        self.model.show_shelf(shelf)
        some = bool(shelf.results)
        self._side.setVisible(bool(state.history) or bool(state.shelves.query))
        self._count.setText(_count(shelf))
        self._count.setVisible(bool(shelf.query))
        self._empty.setText(f"No prompt holds “{shelf.query}”." if shelf.query else "Your pictures will be kept here.")
        if not some and self.view.hasFocus():
            self.search.setFocus()
        self.view.setVisible(some)
        self._empty.setVisible(not some)

    def mark(self, result_id: str) -> None:
        """Select the picture that is on the canvas, without choosing it again."""
        place = self.model.row_of(result_id)
        selection = self.view.selectionModel()
        selection.blockSignals(True)
        if place < 0:
            selection.clear()
        else:
            self.view.setCurrentIndex(self.model.index(place))
        selection.blockSignals(False)
        self.view.viewport().update()

    def set_compact(self, compact: bool) -> None:
        """Smaller pictures where the window is low."""
        self._title.setVisible(not compact)
        self._side_layout.setStretch(0, 1 if compact else 0)
        self._delegate.side = _SMALL if compact else _LARGE
        height = self._delegate.side + 12 + QFontMetrics(theme().font(-1)).height() + 12
        self.setFixedHeight(height)
        self.model.layoutChanged.emit()

    def _lay_out(self) -> None:
        self._side = QWidget()
        side = QVBoxLayout(self._side)
        side.setContentsMargins(6, 6, 0, 6)
        side.setSpacing(8)
        head = row(self._title, self._count)
        head.setStretch(0, 1)
        side.addStretch(0)
        side.addLayout(head)
        side.addWidget(self.search)
        side.addStretch(1)
        self._side_layout = side
        self._side.setFixedWidth(24 * max(7, self.fontMetrics().averageCharWidth()))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(10, 4, 10, 4)
        layout.setSpacing(10)
        layout.addWidget(self._side)
        layout.addWidget(self.view, 1)
        layout.addWidget(self._empty, 1)

    def _connect(self) -> None:
        self.view.clicked.connect(lambda index: self.chosen.emit(index.data(ResultRole)))
        self.view.doubleClicked.connect(lambda index: self.opened.emit(index.data(ResultRole)))
        self.view.selectionModel().currentChanged.connect(self._on_current)
        self.view.pressed_key.connect(self._on_key)
        self.view.customContextMenuRequested.connect(self._on_menu)
        self.view.horizontalScrollBar().valueChanged.connect(self._look_ahead)
        self.view.horizontalScrollBar().rangeChanged.connect(self._look_ahead)
        self.search.searched.connect(self._on_search)
        self.search.left.connect(self._on_left)
        self.thumbnails.ready.connect(self._repaint)
        theme().changed.connect(self._repaint)

    def _repaint(self) -> None:
        self.view.viewport().update()

    def _look_ahead(self) -> None:
        bar = self.view.horizontalScrollBar()
        if bar.maximum() - bar.value() < _AHEAD * self.view.viewport().width():
            self.more_wanted.emit()

    def _on_search(self, text: str) -> None:
        self.view.horizontalScrollBar().setValue(0)
        self.searched.emit(text)

    def _on_left(self) -> None:
        """On from the search to what it found: the first of it, unless another is on the canvas already."""
        if not self.model.rowCount():
            return
        self.view.setFocus()
        if not self.view.currentIndex().isValid():
            self.view.setCurrentIndex(self.model.index(0))

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


def _count(shelf: Shelf) -> str:
    """How many a search found, as far as that is known."""
    if not shelf.query:
        return ""
    return f"{len(shelf.results)} found" if shelf.complete else f"more than {len(shelf.results)} found"
