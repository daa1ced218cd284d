"""The controls that the panels are made of: switch, number field, choice, icon button, labels."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QWheelEvent
from PySide6.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QWidget,
)

from app import formatting
from app.theme import icons
from app.theme.theme import theme


def label(text: str, role: str = "") -> QLabel:
    """A label that the style sheet dresses by its role."""
    result = QLabel(text)
    if role:
        result.setProperty("role", role)
    result.setTextFormat(Qt.TextFormat.PlainText)
    return result


def scroll_area() -> QScrollArea:
    """An area that scrolls up and down where its content is too high, and looks like nothing."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return area


def row(*widgets: QWidget, spacing: int = 8) -> QHBoxLayout:
    """Widgets side by side."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    for widget in widgets:
        layout.addWidget(widget)
    return layout


def field_height() -> int:
    """The one height of all fields and small buttons, from the size of the text."""
    return max(32, theme().text_size + 20)


class ElidedLabel(QLabel):
    """One line that ends in an ellipsis where there is no room; the whole text is its tooltip then."""

    def __init__(self, text: str = "", role: str = "") -> None:
        super().__init__(text)
        self.setTextFormat(Qt.TextFormat.PlainText)
        if role:
            self.setProperty("role", role)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

    def minimumSizeHint(self) -> QSize:
        """Can shrink to a few letters."""
        return QSize(24, super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """As much of the text as fits."""
        painter = QPainter(self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        box = self.contentsRect()
        text = painter.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, box.width())
        self.setToolTip(formatting.tooltip(self.text()) if text != self.text() else "")
        painter.drawText(box, self.alignment() | Qt.AlignmentFlag.AlignVCenter, text)


class Switch(QCheckBox):
    """A check box drawn as a switch."""

    _TRACK = QSize(34, 20)

    def sizeHint(self) -> QSize:
        """Room for the track, a gap and the text."""
        metrics = self.fontMetrics()
        return QSize(
            self._TRACK.width() + 12 + metrics.horizontalAdvance(self.text()),
            max(self._TRACK.height() + 8, metrics.height() + 4),
        )

    def minimumSizeHint(self) -> QSize:
        """Never cut off."""
        return self.sizeHint()

    def hitButton(self, position: object) -> bool:
        """The whole of it can be pressed."""
        return True

    def paintEvent(self, event: QPaintEvent) -> None:
        """A track, a knob, the text."""
        colours = theme().colours
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width, height = self._TRACK.width(), self._TRACK.height()
        track = QRectF(2, (self.height() - height) / 2, width - 2, height).adjusted(0.5, 0.5, -0.5, -0.5)
        if self.hasFocus():
            painter.setPen(QPen(QColor(colours.accent), 2))
            painter.drawRoundedRect(track.adjusted(-2, -2, 2, 2), height / 2 + 2, height / 2 + 2)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.accent if self.isChecked() else colours.raised_hover))
        painter.drawRoundedRect(track, height / 2, height / 2)
        painter.setBrush(QColor(colours.on_accent if self.isChecked() else colours.muted))
        x = track.right() - height / 2 + 0.5 if self.isChecked() else track.left() + height / 2 - 0.5
        painter.drawEllipse(QPointF(x, track.center().y()), height / 2 - 3.5, height / 2 - 3.5)
        painter.setPen(QColor(colours.text))
        text = self.rect().adjusted(width + 12, 0, 0, 0)
        painter.drawText(text, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, self.text())


class NumberField(QSpinBox):
    """A whole number without arrows. Where 0 means "the model's own" it shows a word instead."""

    def __init__(self, name: str, low: int, high: int, automatic: str = "") -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setRange(low, high)
        self.setSpecialValueText(automatic)
        self.setKeyboardTracking(False)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumWidth(46)
        dress_number(self)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Only the field that has the focus turns with the wheel; else scrolling by would change numbers."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class DecimalField(QDoubleSpinBox):
    """A number with one decimal, without arrows; its lowest value shows as a word."""

    def __init__(self, name: str, low: float, high: float, automatic: str = "") -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setRange(low, high)
        self.setDecimals(1)
        self.setSingleStep(0.5)
        self.setSpecialValueText(automatic)
        self.setKeyboardTracking(False)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        dress_number(self)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """As in `NumberField`."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class Choice(QComboBox):
    """A combo box with our chevron."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setAccessibleName(name)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.setFixedHeight(field_height())

    def paintEvent(self, event: QPaintEvent) -> None:
        """The box as the style draws it, then the chevron."""
        super().paintEvent(event)
        painter = QPainter(self)
        box = QRectF(self.width() - 26, (self.height() - 18) / 2, 18, 18)
        icons.draw(painter, "chevron-down", box, theme().colours.muted)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """As in `NumberField`."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


def dress_number(field: QAbstractSpinBox) -> None:
    """The height and the margins of all fields for numbers."""
    field.setFixedHeight(field_height())
    field.lineEdit().setTextMargins(6, 0, 4, 0)


class IconButton(QToolButton):
    """A square button with one of our icons. `on` is the icon while it is checked."""

    def __init__(self, icon: str, name: str, tip: str = "", *, on: str = "", quiet: bool = True) -> None:
        super().__init__()
        self._icon, self._on = icon, on
        self.setAccessibleName(name)
        self.setToolTip(tip or name)
        self.setIconSize(QSize(18, 18))
        self.setFixedSize(field_height(), field_height())
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCheckable(bool(on))
        if quiet:
            self.setProperty("role", "quiet")
        self.toggled.connect(lambda _: self._redraw())
        theme().changed.connect(self._redraw)
        self._redraw()

    def set_icon(self, icon: str) -> None:
        """Show another icon."""
        self._icon = icon
        self._redraw()

    def _redraw(self) -> None:
        colours = theme().colours
        checked = self.isChecked() and bool(self._on)
        colour = colours.accent_text if checked else colours.muted
        self.setIcon(theme().icon(self._on if checked else self._icon, colour))
