"""The queue: what waits, what runs, what failed and why. Hidden while there is nothing to say."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from app.state import StudioState
from app.theme.theme import theme
from app.widgets.controls import ElidedLabel, IconButton, label, scroll_area
from core.library.queue import Job, State

_TEXT = {
    State.WAITING: "waiting",
    State.RUNNING: "being made",
    State.FAILED: "failed",
    State.SET_ASIDE: "set aside",
}
_MOST_HEIGHT = 190


class _Dot(QWidget):
    """A state as a colour; the words beside it say the same."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self.setFixedSize(QSize(8, 8))

    def paintEvent(self, event: QPaintEvent) -> None:
        colours = theme().colours
        colour = {State.WAITING: colours.muted, State.RUNNING: colours.accent}.get(self._state, colours.danger)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colour))
        painter.drawEllipse(QRectF(0, 0, 8, 8))


class _Row(QWidget):
    """One job."""

    retry = Signal()
    remove = Signal()

    def __init__(self, job: Job) -> None:
        super().__init__()
        prompt = " ".join(job.request.prompt.split())
        stuck = job.state in (State.FAILED, State.SET_ASIDE)
        name = ElidedLabel(prompt)
        state = label(f"{_TEXT[job.state]}: {job.reason}" if job.reason else _TEXT[job.state], "small")
        state.setWordWrap(True)
        state.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setAccessibleName(f"{prompt}: {state.text()}")
        head = QHBoxLayout()
        head.setSpacing(8)
        head.addWidget(_Dot(job.state))
        head.addWidget(name, 1)
        if stuck:
            again = IconButton("retry", f"Try again: {prompt}", "Try again")
            again.clicked.connect(self.retry)
            head.addWidget(again)
        verb = "Stop" if job.state is State.RUNNING else "Remove"
        gone = IconButton("close", f"{verb}: {prompt}", f"{verb} this picture")
        gone.clicked.connect(self.remove)
        head.addWidget(gone)
        state.setContentsMargins(16, 0, 0, 0)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.setSpacing(0)
        layout.addLayout(head)
        layout.addWidget(state)


class QueuePanel(QFrame):
    """Jobs in the order in which they run."""

    retried = Signal(str)
    removed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._jobs: list[Job] = []
        self._title = label("Queue", "title")
        self._rows = QWidget()
        self._rows.setObjectName("scrolled")
        self._list = QVBoxLayout(self._rows)
        self._list.setContentsMargins(0, 0, 8, 0)
        self._list.setSpacing(4)
        self._area = scroll_area()
        self._area.setWidget(self._rows)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 8, 12)
        layout.setSpacing(8)
        layout.addWidget(self._title)
        layout.addWidget(self._area)
        self.hide()

    def show_queue(self, state: StudioState) -> None:
        """Show the state's queue."""
        if state.queue == self._jobs:
            return
        self._jobs = list(state.queue)
        while (item := self._list.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        for job in self._jobs:
            line = _Row(job)
            request_id = job.request.id
            line.retry.connect(lambda request_id=request_id: self.retried.emit(request_id))
            line.remove.connect(lambda request_id=request_id: self.removed.emit(request_id))
            self._list.addWidget(line)
            line.show()  # a layout counts only what is shown
        count = len(self._jobs)
        self._title.setText("Queue" if count < 2 else f"Queue · {count}")
        self.setVisible(bool(self._jobs))
        self._fit()

    def resizeEvent(self, event: object) -> None:
        """Wrapped reasons need another height at another width."""
        self._fit()

    def _fit(self) -> None:
        width = self._area.viewport().width()
        self._list.activate()
        height = self._list.heightForWidth(width) if self._list.hasHeightForWidth() else self._list.sizeHint().height()
        self._area.setFixedHeight(min(_MOST_HEIGHT, height))
