"""The switch for drafts while typing, and what stands below it where drafts take too long for that."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app import formatting
from app.widgets.controls import Switch, label, row


class DraftsPanel(QWidget):
    """Part of the prompt's panel. Emits what the person wants; `app.drafting` decides."""

    switched = Signal(bool)
    wanted = Signal()  # one draft, now

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.switch = Switch("Draft while typing")
        self.switch.setAccessibleName("Draft while typing")
        self.button = QPushButton("Draft")
        self.button.setAccessibleName("Make one draft")
        self.button.setToolTip("Make one draft of the prompt as it stands (Ctrl+D)")
        self._note = label("", "small")
        self._note.setWordWrap(True)
        self._note.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._paused = QWidget()
        line = row(self._note, self.button, spacing=12)
        line.setStretch(0, 1)
        line.setAlignment(self.button, Qt.AlignmentFlag.AlignTop)
        self._paused.setLayout(line)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.switch)
        layout.addWidget(self._paused)
        self.switch.toggled.connect(self.switched)
        self.button.clicked.connect(self.wanted)
        self.show_drafting(True, None)

    @property
    def note(self) -> str:
        """Why no drafts come; empty while they do."""
        return self._note.text() if not self._paused.isHidden() else ""

    def show_drafting(self, on: bool, pause: float | None) -> None:
        """Show whether drafts come while typing; `pause` is the seconds of a draft where they are too slow for it."""
        with QSignalBlocker(self.switch):
            self.switch.setChecked(on)
        if pause is None:
            self.switch.setToolTip("Show a quick draft of the prompt whenever it changes (Ctrl+Shift+D)")
        else:
            self._note.setText(
                f"Drafts of this model take about {formatting.about(pause)}; Ctrl+D or the button makes one."
            )
            self.switch.setToolTip("Draft whenever the prompt changes, although this model is slow (Ctrl+Shift+D)")
        self.switch.setAccessibleDescription(self._note.text() if pause is not None else "")
        if pause is None and self.button.hasFocus():
            self.switch.setFocus()
        self._paused.setVisible(pause is not None)
