"""The main window: where the panels stand, at every size, and which keys and drops it takes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from PySide6.QtCore import QByteArray, QEvent, QSignalBlocker, QSize, Qt, Signal
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent, QKeySequence, QResizeEvent, QShortcut
from PySide6.QtWidgets import QHBoxLayout, QMainWindow, QSizePolicy, QVBoxLayout, QWidget

from app.panels.canvas import CanvasPanel
from app.panels.gallery import HistoryPanel
from app.panels.header import Header
from app.panels.options import OptionsPanel
from app.panels.precision import PrecisionPanel
from app.panels.prompt import PromptPanel
from app.panels.queue import QueuePanel
from app.panels.residency import ResidencyPanel
from app.startup import WINDOW_SIZE
from app.widgets.controls import scroll_area
from app.widgets.notice import NoticeBar
from app.widgets.starting import dropped_file

# Narrower than this (in widths of ordinary text) there is no room for a third column, lower none for large thumbnails.
_NARROW, _LOW = 76, 44
# Lower than this (in lines) there is no room for even the chart's head line.
_LOWEST = 26
_SMALLEST = QSize(560, 380)
_MARGIN = 16


class StudioWindow(QMainWindow):
    """Panels and their places. It decides nothing: `app.studio` does."""

    closing = Signal()
    file_dropped = Signal(Path)
    generate_wanted = Signal()
    cancel_wanted = Signal()
    open_wanted = Signal()
    copy_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setWindowTitle("Residency")
        self.setAcceptDrops(True)
        self.header = Header()
        self.prompt = PromptPanel()
        self.canvas = CanvasPanel()
        self.notice = NoticeBar()
        self.options = OptionsPanel()
        self.queue = QueuePanel()
        self.precision = PrecisionPanel()
        self.residency = ResidencyPanel()
        self.history = HistoryPanel()
        self.chart_open: bool | None = None  # as the person wants it; None: as there is room
        self._narrow: bool | None = None
        self._lay_out()
        self._bind_keys()
        self.residency.folded.connect(self._folded)
        self.setMinimumSize(_SMALLEST)
        self.resize(*WINDOW_SIZE)

    def showEvent(self, event: QEvent) -> None:
        """Typing works from the first moment."""
        super().showEvent(event)  # type: ignore[arg-type]
        self.prompt.edit.setFocus()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Narrow windows have two columns, low ones small thumbnails."""
        super().resizeEvent(event)
        self._arrange()

    def closeEvent(self, event: QCloseEvent) -> None:
        """Gone from the screen at once; what has to end ends after."""
        self.closing.emit()
        super().closeEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Files may be dropped anywhere."""
        if dropped_file(event.mimeData()) is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """A dropped picture gives its settings back or is started from, a dropped model is used."""
        file = dropped_file(event.mimeData())
        if file is not None:
            event.acceptProposedAction()
            self.file_dropped.emit(file)

    def geometry_text(self) -> str:
        """Size and place, for the session."""
        return bytes(self.saveGeometry().toBase64().data()).decode("ascii")

    def restore_geometry_text(self, text: str) -> None:
        """Take size and place of the last session; anything else is passed over."""
        if text:
            self.restoreGeometry(QByteArray.fromBase64(text.encode("ascii", "ignore")))

    # -- how it is made ----------------------------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self._side = QWidget()
        self._side.setObjectName("side")
        self._side_layout = QVBoxLayout(self._side)
        self._side_layout.setContentsMargins(0, 0, 0, 0)
        self._side_layout.setSpacing(12)
        for part in (self.options, self.queue, self.precision):
            part.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
            self._side_layout.addWidget(part)
        self._side_layout.addStretch(1)
        middle = QVBoxLayout()
        middle.setSpacing(12)
        middle.addWidget(self.notice)
        middle.addWidget(self.canvas, 1)
        middle.addWidget(self.residency)
        self._body = QHBoxLayout()
        self._body.setSpacing(12)
        self._body.addWidget(self.prompt)
        self._body.addLayout(middle, 1)
        self._side_area = scroll_area()
        self._body.addWidget(self._side_area)
        root = QWidget()
        root.setObjectName("root")
        layout = QVBoxLayout(root)
        layout.setContentsMargins(12, 8, 12, 12)
        layout.setSpacing(8)
        layout.addWidget(self.header)
        layout.addLayout(self._body, 1)
        layout.addSpacing(4)
        layout.addWidget(self.history)
        self.setCentralWidget(root)

    def _arrange(self) -> None:
        letter = max(7, self.fontMetrics().averageCharWidth())
        line = self.fontMetrics().height()
        narrow = self.width() < _NARROW * 2 * letter
        low = self.height() < _LOW * line
        self.prompt.setFixedWidth(max(288, min(46 * letter, round(self.width() * 0.26))))
        self.prompt.set_compact(low)
        self.history.set_compact(low)
        self._arrange_chart(low, self.height() < _LOWEST * line)
        if narrow == self._narrow:
            return
        self._narrow = narrow
        self._side_area.setVisible(not narrow)
        if narrow:
            self._side_area.takeWidget()
            self.prompt.take_in(self._side)
            self._side.show()
        else:
            self._side_area.setWidget(self._side)
            self._side_area.setFixedWidth(40 * letter)
        for part in (self.options, self.queue, self.precision):
            layout = part.layout()
            assert layout is not None
            margins = layout.contentsMargins()
            # inside the first column its own margin is enough
            margins.setLeft(0 if narrow else _MARGIN)
            margins.setRight(0 if narrow else _MARGIN)
            layout.setContentsMargins(margins)
        self._order_tabs()

    def _arrange_chart(self, low: bool, lowest: bool) -> None:
        self.residency.set_height(self.height())
        self.residency.setVisible(not lowest)
        with QSignalBlocker(self.residency):
            self.residency.unfold(not low if self.chart_open is None else self.chart_open)

    def _folded(self, folded: bool) -> None:
        self.chart_open = not folded

    def _go_to_chart(self) -> None:
        """Unfold the chart and take the keyboard there; from there, fold it again."""
        chart = self.residency.chart
        if chart.hasFocus():
            self.residency.unfold(False)
            self.prompt.edit.setFocus()
        else:
            self.residency.unfold(True)
            chart.setFocus(Qt.FocusReason.ShortcutFocusReason)

    def _bind_keys(self) -> None:
        options, prompt = self.options, self.prompt
        for keys, action in (
            ("Ctrl+Return", self.generate_wanted.emit),
            ("Ctrl+Enter", self.generate_wanted.emit),
            ("Ctrl+Alt+Return", self.cancel_wanted.emit),
            ("Ctrl+Alt+Enter", self.cancel_wanted.emit),
            ("Esc", self.cancel_wanted.emit),
            ("Ctrl+L", options.toggle_lock),
            ("Ctrl+R", options.roll),
            ("Ctrl+D", prompt.drafts.wanted.emit),
            ("Ctrl+Shift+D", prompt.drafts.switch.toggle),
            ("Ctrl+E", prompt.edit.setFocus),
            ("Ctrl+H", self.history.view.setFocus),
            ("Ctrl+M", self._go_to_chart),
            ("Ctrl+F", self.history.search.begin),
            ("Ctrl+O", self.open_wanted.emit),
            ("Ctrl+Shift+C", self.copy_wanted.emit),
            ("F1", lambda: self.header.help.showMenu()),
        ):
            QShortcut(QKeySequence(keys), self).activated.connect(action)

    def _order_tabs(self) -> None:
        options, precision = self.options, self.precision
        chain = [
            self.prompt.edit, self.prompt.start.choose, self.prompt.start.slider, self.prompt.start.remove,
            self.prompt.drafts.switch, self.prompt.drafts.button, self.prompt.button,
            self.prompt.stop, options.model,
            options.width_field, options.height_field, options.shapes, options.seed, options.lock, options.dice,
            options.steps, options.more, options.guidance, options.negative,
            precision.slider, precision.what_if, precision.controls.card, precision.controls.memory,
            precision.controls.model, precision.why, self.residency.fold, self.residency.back, self.residency.chart,
            self.history.search, self.history.view,
            self.header.themes, self.header.help,
        ]  # fmt: skip
        for first, second in pairwise(chain):
            QWidget.setTabOrder(first, second)
