"""A word that could stand in the prompt, with the picture it would make once that is known."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QKeyEvent, QPainter, QPainterPath, QPaintEvent, QPen, QPixmap
from PySide6.QtWidgets import QAbstractButton, QWidget

from app.theme.theme import theme

THUMB = 60
_LABEL_GAP = 3


class WordChip(QAbstractButton):
    """A button with a word; a thumbnail above it when `set_image` gave one."""

    stepped = Signal(int)  # an arrow key: to the chip before (-1) or after (1) this one

    def __init__(
        self, word: str, *, pictured: bool, use: str = "Use {} instead", parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._pictured = pictured
        self._pixmap: QPixmap | None = None
        self.setText(word)
        self.setCheckable(True)
        self.setAccessibleName(use.format(word))
        self.setToolTip(word)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setAttribute(Qt.WidgetAttribute.WA_Hover)
        # a click must not take the caret away from the prompt; which chip Tab reaches, the panel decides
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        theme().changed.connect(self.update)

    def set_image(self, image: QImage) -> None:
        """Show the picture that this word would make."""
        side = min(image.width(), image.height())
        square = image.copy((image.width() - side) // 2, (image.height() - side) // 2, side, side)
        pixels = round(THUMB * self.devicePixelRatioF())
        self._pixmap = QPixmap.fromImage(
            square.scaled(
                pixels, pixels, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
        )
        self._pixmap.setDevicePixelRatio(self.devicePixelRatioF())
        self.update()

    def clear_image(self) -> None:
        """The prompt around the word changed; its picture is not known any more."""
        self._pixmap = None
        self.update()

    @property
    def has_image(self) -> bool:
        """Whether its picture is known."""
        return self._pixmap is not None

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Arrows go from chip to chip, Enter and Space choose."""
        keys = Qt.Key
        steps = {keys.Key_Left: -1, keys.Key_Up: -1, keys.Key_Right: 1, keys.Key_Down: 1}
        if event.key() in steps and not event.modifiers():
            self.stepped.emit(steps[keys(event.key())])
        elif event.key() in (keys.Key_Return, keys.Key_Enter) and not event.modifiers():
            self.click()
        else:
            super().keyPressEvent(event)

    def nextCheckState(self) -> None:
        """Which word is in the prompt is said by the prompt, not by the click."""

    def sizeHint(self) -> QSize:
        """A picture with the word below it, or a pill with the word in it."""
        metrics = self.fontMetrics()
        if self._pictured:
            return QSize(THUMB + 6, THUMB + 6 + _LABEL_GAP + metrics.height())
        return QSize(metrics.horizontalAdvance(self.text()) + 22, max(28, metrics.height() + 10))

    def minimumSizeHint(self) -> QSize:
        """Never cut off."""
        return self.sizeHint()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw it."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        if self._pictured:
            self._paint_picture(painter)
        else:
            self._paint_pill(painter)

    def _paint_picture(self, painter: QPainter) -> None:
        colours = theme().colours
        box = QRectF(3, 3, THUMB, THUMB)
        clip = QPainterPath()
        clip.addRoundedRect(box, 8, 8)
        if self._pixmap is not None:
            painter.save()
            painter.setClipPath(clip)
            painter.drawPixmap(box.topLeft(), self._pixmap)
            painter.restore()
        else:
            painter.fillPath(clip, QColor(colours.field))
            painter.setPen(QPen(QColor(colours.line), 1))
            painter.drawPath(clip)
        lively = self.underMouse() or self.hasFocus()
        if self.isChecked() or lively:
            painter.setPen(QPen(QColor(colours.accent if self.isChecked() or self.hasFocus() else colours.muted), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(box.adjusted(-1.5, -1.5, 1.5, 1.5), 9.5, 9.5)
        painter.setPen(QColor(colours.accent_text if self.isChecked() else colours.text if lively else colours.muted))
        painter.setFont(theme().font(-1))
        text = QRectF(0, THUMB + 6 + _LABEL_GAP - 2, self.width(), self.height() - THUMB - 6 - _LABEL_GAP + 2)
        elided = painter.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, round(text.width()))
        painter.drawText(text, Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignVCenter, elided)

    def _paint_pill(self, painter: QPainter) -> None:
        colours = theme().colours
        box = QRectF(self.rect()).adjusted(1, 1, -1, -1)
        painter.setPen(QPen(QColor(colours.accent), 2) if self.hasFocus() else Qt.PenStyle.NoPen)
        lit = self.isChecked() or self.isDown()
        painter.setBrush(
            QColor(colours.accent_soft if lit else colours.raised_hover if self.underMouse() else colours.raised)
        )
        painter.drawRoundedRect(box, box.height() / 2, box.height() / 2)
        painter.setPen(QColor(colours.accent_text if self.isChecked() else colours.text))
        painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, self.text())
