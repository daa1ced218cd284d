"""The residency chart: bytes of device memory over time by component, the plan dashed and what happened filled."""

from __future__ import annotations

from PySide6.QtCore import QPoint, QPointF, QRectF, QSize, Qt
from PySide6.QtGui import (
    QAccessible,
    QAccessibleEvent,
    QColor,
    QFocusEvent,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPixmap,
    QResizeEvent,
)
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from app import formatting, plan_words
from app.chart_scale import Scale
from app.theme.theme import theme
from app.view import View
from app.widgets.chart_drawing import ChartDrawing


class ResidencyChart(QWidget):
    """Paints a view. Arrow keys walk through the phases, the pointer through the layers."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName("Memory over time")
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._view = View()
        self._drawing: ChartDrawing | None = None
        self._pixmaps: tuple[QPixmap, QPixmap] | None = None
        self._phase: int | None = None
        theme().changed.connect(self._redraw)

    def sizeHint(self) -> QSize:
        """As high as the panel says."""
        return QSize(320, self.height())

    def show_view(self, view: View) -> None:
        """Show another plan, or more of what happened."""
        count = len(view.outline.spans) if view.outline is not None else 0
        if self._phase is not None and self._phase >= count:
            self._phase = None
        before, self._view = self._view, view
        same = view.outline is before.outline and (view.happened is None) == (before.happened is None)
        if same and self._drawing is not None and self._drawing.take(view):
            self.update()
        else:
            self._redraw()
        self._describe()

    @property
    def phase(self) -> int | None:
        """The phase that the keyboard is on."""
        return self._phase

    def tip_at(self, at: QPointF) -> str:
        """What lies at a point, in words; empty where nothing does."""
        if self._drawing is None or self._view.outline is None:
            return ""
        scale, frame = self._drawing.scale, self._drawing.scale.frame
        seconds, amount = scale.seconds(at.x()), scale.amount(at.y())
        if not frame.left <= at.x() <= frame.right:
            return ""
        for layers, happened in ((self._view.happened, True), (self._view.outline.layers, False)):
            if layers is None or (happened and seconds > layers.end) or amount < 0:
                continue
            base = 0
            for name, size in layers.at(seconds).items():
                if base <= amount < base + size:
                    return formatting.tooltip(*plan_words.layer(self._view, name, size, seconds, happened=happened))
                base += size
        return formatting.tooltip(plan_words.phase(self._view, self._view.outline.span_at(seconds)))

    # -- what the person does ----------------------------------------------------------------------------------------

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Tell what lies under the pointer."""
        text = self.tip_at(event.position())
        if text:
            QToolTip.showText(event.globalPosition().toPoint(), text, self)
        else:
            QToolTip.hideText()

    def event(self, event: object) -> bool:
        """The tooltip follows the pointer already."""
        if isinstance(event, QHelpEvent):
            return True
        return super().event(event)  # type: ignore[arg-type]

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and right go from phase to phase, Home and End to the first and the last."""
        count = len(self._view.outline.spans) if self._view.outline is not None else 0
        here = -1 if self._phase is None else self._phase
        wanted = {
            Qt.Key.Key_Right.value: min(count - 1, here + 1),
            Qt.Key.Key_Left.value: max(0, here - 1),
            Qt.Key.Key_Home.value: 0,
            Qt.Key.Key_End.value: count - 1,
        }.get(event.key())
        if wanted is None or count == 0:
            super().keyPressEvent(event)
            return
        self._phase = wanted
        self.update()
        self._describe()
        if self._drawing is not None:
            left, right = self._drawing.scale.edges(wanted)
            at = self.mapToGlobal(QPoint(round((left + right) / 2), round(self._drawing.scale.frame.top)))
            QToolTip.showText(at, formatting.tooltip(plan_words.phase(self._view, wanted)), self)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """No phase is chosen while the keyboard is elsewhere."""
        self._phase = None
        QToolTip.hideText()
        self._describe()
        super().focusOutEvent(event)

    # -- painting ----------------------------------------------------------------------------------------------------

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Everything has another place."""
        super().resizeEvent(event)
        self._redraw()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The plan from memory, between its two halves what happened, and above all the present moment."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colours = theme().colours
        if self._drawing is not None:
            under, over = self._kept(self._drawing)
            painter.drawPixmap(0, 0, under)
            self._drawing.paint_happened(painter)
            painter.drawPixmap(0, 0, over)
            self._paint_phase(painter, self._drawing.scale)
            self._paint_now(painter, self._drawing.scale)
        elif self._view.sentence:
            painter.setFont(theme().font())
            painter.setPen(QColor(colours.muted))
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(self.rect().adjusted(24, 0, -24, 0), flags.value, self._view.sentence)
        if self.hasFocus():
            painter.setPen(QPen(QColor(colours.accent), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 6, 6)

    def _redraw(self) -> None:
        """Place everything anew."""
        some = self._view.outline is not None and self._view.outline.spans and self.width() > 0
        self._drawing = ChartDrawing(self._view, self.width(), self.height()) if some else None
        self._pixmaps = None
        self.update()

    def _kept(self, drawing: ChartDrawing) -> tuple[QPixmap, QPixmap]:
        """What stays the same from paint to paint, drawn once for this screen."""
        ratio = self.devicePixelRatioF()
        if self._pixmaps is None or self._pixmaps[0].devicePixelRatio() != ratio:
            pixmaps = []
            for paint in (drawing.paint_under, drawing.paint_over):
                pixmap = QPixmap(self.size() * ratio)
                pixmap.setDevicePixelRatio(ratio)
                pixmap.fill(Qt.GlobalColor.transparent)
                painter = QPainter(pixmap)
                painter.setRenderHint(QPainter.RenderHint.Antialiasing)
                painter.setFont(theme().font(-2))
                paint(painter)
                painter.end()
                pixmaps.append(pixmap)
            self._pixmaps = (pixmaps[0], pixmaps[1])
        return self._pixmaps

    def _paint_phase(self, painter: QPainter, scale: Scale) -> None:
        if self._phase is None:
            return
        left, right = scale.edges(self._phase)
        chosen = QColor(theme().colours.accent)
        chosen.setAlphaF(0.16)
        painter.fillRect(QRectF(left, scale.frame.top, right - left, self.height() - scale.frame.top - 4), chosen)

    def _paint_now(self, painter: QPainter, scale: Scale) -> None:
        if self._view.now is None:
            return
        x = scale.x(self._view.now)
        painter.setPen(QPen(QColor(theme().colours.text), 1.5))
        painter.drawLine(QPointF(x, scale.frame.top), QPointF(x, scale.frame.bottom + 6))

    def _describe(self) -> None:
        view = self._view
        if self._phase is not None and view.outline is not None:
            text = plan_words.phase(view, self._phase)
        else:
            text = ". ".join(part for part in (view.what_if.strip(), view.sentence or view.summary) if part)
            text += ". Left and right arrows go through the phases." if view.outline is not None else ""
        if text != self.accessibleDescription():
            self.setAccessibleDescription(text)
            QAccessible.updateAccessibility(QAccessibleEvent(self, QAccessible.Event.DescriptionChanged))
