"""The field for a seed: any whole number that a request may carry, which is more than Qt's own spin box holds."""

from __future__ import annotations

from PySide6.QtCore import Signal
from PySide6.QtGui import QValidator, QWheelEvent
from PySide6.QtWidgets import QAbstractSpinBox, QSizePolicy

from app.widgets.controls import dress_number
from core.models.check import MAX_SEED

# More digits than these are not seen at once in a column of ordinary width.
_SEEN_DIGITS = 9


class SeedField(QAbstractSpinBox):
    """0 to 2^63 - 1. What is typed counts at once for `seed`, and is told by `changed` when it is finished."""

    changed = Signal()

    def __init__(self, name: str) -> None:
        super().__init__()
        self._told = 0
        self.setAccessibleName(name)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(52)
        dress_number(self)
        self.set_seed(0)
        self.editingFinished.connect(self._finish)

    def seed(self) -> int:
        """The seed shown; while it is being typed and is none yet, the one before."""
        text = self.lineEdit().text()
        return int(text) if _is_seed(text) else self._told

    def set_seed(self, seed: int) -> None:
        """Show a seed; one out of range becomes the nearest that can be used."""
        text = str(max(0, min(seed, MAX_SEED)))
        self.lineEdit().setText(text)
        self.lineEdit().setCursorPosition(0)  # a long one is seen from its beginning
        self._finish()

    def stepBy(self, steps: int) -> None:
        """Up and down, by the keys or the wheel."""
        self.set_seed(self.seed() + steps)
        self.selectAll()

    def stepEnabled(self) -> QAbstractSpinBox.StepEnabledFlag:
        """Up but for the largest, down but for 0."""
        flags = QAbstractSpinBox.StepEnabledFlag.StepNone
        if self.seed() < MAX_SEED:
            flags |= QAbstractSpinBox.StepEnabledFlag.StepUpEnabled
        if self.seed() > 0:
            flags |= QAbstractSpinBox.StepEnabledFlag.StepDownEnabled
        return flags

    def validate(self, text: str, position: int) -> tuple[QValidator.State, str, int]:
        """Digits, at most so many that the seed can be used."""
        if not text:
            return QValidator.State.Intermediate, text, position
        state = QValidator.State.Acceptable if _is_seed(text) else QValidator.State.Invalid
        return state, text, position

    def fixup(self, text: str) -> str:
        """An emptied field shows what it showed before."""
        return text or str(self._told)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Only while it has the focus; else scrolling by would change the seed."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()

    def _finish(self) -> None:
        seed = self.seed()
        if not self.lineEdit().text():
            self.lineEdit().setText(str(seed))
        text = str(seed)
        self.setToolTip(text if len(text) > _SEEN_DIGITS else "")
        if seed != self._told:
            self._told = seed
            self.changed.emit()


def _is_seed(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SEED)) and int(text) <= MAX_SEED
