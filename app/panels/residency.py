"""What will lie in memory, when and for how long, and over it what did: the chart, and one line that sums it up."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app import formatting
from app.theme.theme import theme
from app.view import View
from app.widgets.chart import ResidencyChart
from app.widgets.controls import ElidedLabel, label

_TITLE = "Memory over time"
_KEY_PLAN, _KEY_BOTH = "dashed: the plan", "dashed: the plan · filled: what happened"
# The chart's height as a share of the window's, and its bounds in lines of text.
_SHARE, _LEAST, _MOST = 0.16, 7, 16


class ResidencyPanel(QFrame):
    """Below the picture. It can be folded to its head line, which keeps telling the sum."""

    back_wanted = Signal()  # from "what if" to this machine
    folded = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.chart = ResidencyChart()
        self.fold = QPushButton(_TITLE)
        self.fold.setProperty("role", "quiet")
        self.fold.setProperty("heading", True)
        self.fold.setCheckable(True)
        self.fold.setChecked(True)
        self.fold.setAccessibleName("Show the memory chart")
        self.back = QPushButton("Back to this machine")
        self.back.setProperty("role", "link")
        self.back.setAccessibleDescription("Show again what the engine will do")
        self._what_if = label("", "badge")
        self._key = label("", "small")
        self._summary = ElidedLabel("", "muted")
        self._summary.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._below = ElidedLabel("", "muted")
        self._below.setContentsMargins(8, 0, 0, 0)
        self._asked, self._sum, self._keyed = "", "", False
        self._lay_out()
        self.fold.toggled.connect(self._on_fold)
        self.back.clicked.connect(self.back_wanted)
        theme().changed.connect(self._redraw)
        self._redraw()
        self.show_view(View())

    @property
    def summary(self) -> str:
        """The line that sums up the plan, or compares it with what came."""
        return self._sum

    @property
    def what_if(self) -> str:
        """What is shown in place of this machine's plan; empty while that is shown."""
        return self._asked

    def show_view(self, view: View) -> None:
        """Show a plan, a run or a "what if"."""
        self.chart.show_view(view)
        asked = self._asked = view.what_if.strip()
        self._what_if.setVisible(bool(asked))
        if not asked and self.back.hasFocus():
            self.chart.setFocus()
        self.back.setVisible(bool(asked))
        self.fold.setText("" if asked else _TITLE)
        drawn = view.outline is not None and view.outline.layers is not None
        self._key.setText(_KEY_BOTH if drawn and view.happened is not None else _KEY_PLAN)
        self._keyed = drawn and not asked
        # without the chart its sentence has to stand somewhere
        self._sum = (view.sentence if self.chart.isHidden() else "") or view.summary
        self._fit()

    def set_height(self, window_height: int) -> None:
        """The chart's height in a window of this height."""
        line = self.fontMetrics().height()
        self.chart.setFixedHeight(max(_LEAST * line, min(_MOST * line, round(_SHARE * window_height))))

    def unfold(self, open_: bool) -> None:
        """Show the chart, or its head line only."""
        self.fold.setChecked(open_)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The sum has a line of its own where the head line is too short for it."""
        super().resizeEvent(event)
        self._fit()

    def _lay_out(self) -> None:
        head = QHBoxLayout()
        head.setSpacing(10)
        head.addWidget(self.fold)
        head.addWidget(self._what_if, 0, Qt.AlignmentFlag.AlignVCenter)
        head.addWidget(self.back)
        head.addWidget(self._key)
        head.addWidget(self._summary, 1)
        head.addStretch(0)
        self._head = head
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 4, 14, 6)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addWidget(self._below)
        layout.addWidget(self.chart)

    def _fit(self) -> None:
        """Show as much in the head line as there is room for, the most important first."""
        room, gap = self.width() - 40, 12
        for part in (self.fold, self._what_if, self.back, self._key, self._summary):
            part.ensurePolished()  # else it would be measured in another font
        metrics = self._summary.fontMetrics()
        summary = metrics.horizontalAdvance(self._sum) + gap if self._sum else 0
        used = self.fold.sizeHint().width() + gap
        if self._asked:
            used += self.back.sizeHint().width() + gap
            badge = self._what_if.fontMetrics()
            padding = 20
            text = badge.elidedText(self._asked, Qt.TextElideMode.ElideRight, max(40, room - used - padding))
            self._what_if.setText(text)
            self._what_if.setToolTip(formatting.tooltip(self._asked) if text != self._asked else "")
            used += badge.horizontalAdvance(text) + padding + gap
        fits = used + summary <= room
        self._key.setVisible(self._keyed and used + summary + self._key.sizeHint().width() + gap <= room)
        own_line = not fits and bool(self._asked)
        self._summary.setText("" if own_line else self._sum)
        self._below.setText(self._sum if own_line else "")
        self._below.setVisible(own_line)

    def _on_fold(self, open_: bool) -> None:
        self.chart.setVisible(open_)
        self._redraw()
        self.folded.emit(not open_)

    def _redraw(self) -> None:
        self.fold.setIcon(theme().icon("chevron-down" if self.fold.isChecked() else "chevron-right"))
        self.fold.setToolTip(formatting.tooltip("Show or hide the memory chart (Ctrl+M)"))
