"""A field that searches while one types."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QRectF, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QLineEdit

from app.theme import icons
from app.theme.theme import theme
from app.widgets.controls import field_height

# Long enough to join letters typed fast, short enough not to be felt as waiting.
_DEBOUNCE_MS = 150
_ICON = 18


class SearchField(QLineEdit):
    """`searched` comes a moment after the last key, and at once when the field is cleared. Esc clears it."""

    searched = Signal(str)
    left = Signal()  # Enter or an arrow down: on to what was found

    def __init__(self, name: str, placeholder: str) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setPlaceholderText(placeholder)
        self.setFixedHeight(field_height())
        self.setTextMargins(_ICON + 2, 0, 0, 0)
        self._told = ""
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DEBOUNCE_MS)
        self._timer.timeout.connect(self._tell)
        self.textChanged.connect(self._on_text)

    def begin(self) -> None:
        """Take the focus, with the old text ready to be typed over."""
        self.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.selectAll()

    def event(self, event: QEvent) -> bool:
        """Esc belongs to the field while there is something to clear; else to the window, where it cancels."""
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.ShortcutOverride and self._clears(event):
            event.accept()
            return True
        return super().event(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Esc, Enter and the arrow down."""
        if self._clears(event):
            self.clear()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Down) and not event.modifiers():
            self._tell()
            self.left.emit()
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        """The field as the style draws it, then the magnifier."""
        super().paintEvent(event)
        painter = QPainter(self)
        box = QRectF(8, (self.height() - _ICON) / 2, _ICON, _ICON)
        icons.draw(painter, "search", box, theme().colours.muted)

    def _clears(self, event: QKeyEvent) -> bool:
        return event.key() == Qt.Key.Key_Escape and bool(self.text())

    def _on_text(self, text: str) -> None:
        if text.strip():
            self._timer.start()
        else:
            self._tell()

    def _tell(self) -> None:
        self._timer.stop()
        text = self.text().strip()
        if text != self._told:
            self._told = text
            self.searched.emit(text)
