"""One clear sentence inside the window, with what can be done about it. Never a box that must be answered."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QAccessible, QAccessibleEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QWidget

from app.shown import Notice
from app.widgets.controls import IconButton, label


class NoticeBar(QFrame):
    """Shows a `Notice`; hidden while there is none."""

    dismissed = Signal()
    acted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "notice")
        self._action = ""
        self._text = label("")
        self._text.setWordWrap(True)
        self._text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._button = QPushButton()
        self._button.clicked.connect(lambda: self.acted.emit(self._action))
        close = IconButton("close", "Dismiss the message")
        close.clicked.connect(self.dismissed)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(16, 8, 8, 8)
        layout.setSpacing(12)
        layout.addWidget(self._text, 1)
        layout.addWidget(self._button, 0, Qt.AlignmentFlag.AlignVCenter)
        layout.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    @property
    def sentence(self) -> str:
        """What it says; empty while hidden."""
        return self._text.text() if not self.isHidden() else ""

    def show_notice(self, notice: Notice | None) -> None:
        """Show a sentence, or nothing."""
        if notice is None:
            self.hide()
            return
        self._text.setText(notice.sentence)
        self.setAccessibleName(notice.sentence)
        self.setProperty("level", "error" if notice.error else "info")
        self.style().unpolish(self)
        self.style().polish(self)
        text, self._action = notice.action or ("", "")
        self._button.setText(text)
        self._button.setAccessibleName(text)
        self._button.setVisible(bool(text))
        self.show()
        QAccessible.updateAccessibility(QAccessibleEvent(self, QAccessible.Event.Alert))
