"""How the residency chart is painted: axes, layers, budget, phases and names, for one view at one size."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QFontMetrics, QPainter, QPen

from app import formatting, plan_words
from app.chart_scale import Frame, Scale
from app.theme.colours import component_colour
from app.theme.theme import theme
from app.view import View
from app.widgets.chart_shapes import Band, Shapes

_PLANNED_FILL, _HAPPENED_FILL, _BEHIND_FILL = 0.2, 0.52, 0.07
_DASH, _BUDGET_DASH = [3.0, 2.5], [5.0, 4.0]
_GAP = 6


class ChartDrawing:
    """A view of an outline with phases, placed. What happened is painted between `under` and `over`."""

    def __init__(self, view: View, width: int, height: int) -> None:
        self._view, outline = view, view.outline
        assert outline is not None
        metrics = QFontMetrics(theme().font(-2))
        peaks = [layers.peak for layers in (outline.layers, view.happened) if layers is not None]
        self._most = max(peaks, default=1)
        left = metrics.horizontalAdvance("888 GB") + 2 * _GAP
        frame = Frame(left, 4, width - left - _GAP, max(20, height - metrics.height() - _GAP - 8))
        labels = [plan_words.phase_label(view, span).partition("  ")[0] for span in outline.spans]
        least = [metrics.horizontalAdvance(text) + 2 * _GAP + 2 for text in labels]
        budget = outline.plan.budget_bytes if outline.plan is not None else 0
        self.scale = Scale(frame, outline.spans, budget, self._most, least)
        planned = Shapes(outline.layers, self.scale) if outline.layers is not None else None
        happened = Shapes(view.happened, self.scale) if view.happened is not None else None
        self._planned = planned.bands() if planned is not None else []
        self._happened = happened.bands() if happened is not None else []
        named = planned or happened
        self._labels = self._names(named, metrics) if named is not None else []

    def take(self, view: View) -> bool:
        """Take in more of what happened; whether it has room in this drawing."""
        if view.happened is None or view.happened.peak > self._most or not self._planned:
            return False
        self._view = view
        self._happened = Shapes(view.happened, self.scale).bands()
        return True

    def paint_under(self, painter: QPainter) -> None:
        """What lies below what happened: the axes and the plan's areas."""
        self._paint_axes(painter, self.scale)
        self._fill(painter, self._planned, _BEHIND_FILL if self._happened else _PLANNED_FILL)

    def paint_happened(self, painter: QPainter) -> None:
        """What really lay there, filled."""
        self._fill(painter, self._happened, _HAPPENED_FILL)
        self._line(painter, self._happened, 1.2)

    def paint_over(self, painter: QPainter) -> None:
        """The plan's dashed lines and all words, which stay legible over what happened."""
        self._line(painter, self._planned, 1.4, _DASH)
        self._paint_phases(painter, self.scale)
        self._paint_budget(painter, self.scale)
        self._paint_labels(painter)

    def _names(self, shapes: Shapes, metrics: QFontMetrics) -> list[tuple[QRectF, str]]:
        """Names in the layers themselves, where there is room: nobody has to look for a colour in a legend."""
        plan = self._view.plan
        formats = {known.name: known.format for known in plan.components} if plan is not None else {}
        result = []
        for name in shapes.names:
            place = shapes.room(name, metrics.height() + 1)
            if place is None:
                continue
            box = place[0].adjusted(_GAP, 0, -_GAP, 0)
            title = plan_words.title(name)
            named = " ".join(word for word in (title, formats.get(name, "")) if word)
            texts = (f"{named} · {formatting.size(place[1])}", named, title)
            fitting = [text for text in texts if metrics.horizontalAdvance(text) <= box.width()]
            result += [(box, fitting[0])] if fitting else []
        return result

    def _paint_axes(self, painter: QPainter, scale: Scale) -> None:
        colours, frame = theme().colours, scale.frame
        metrics = painter.fontMetrics()
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for tick in scale.ticks(4 if frame.height > 6 * metrics.height() else 2):
            y = scale.y(tick)
            painter.setPen(QPen(QColor(colours.line), 1))
            painter.drawLine(QPointF(frame.left, y), QPointF(frame.right, y))
            painter.setPen(QColor(colours.muted))
            text = formatting.size(tick).replace(".0 ", " ") if tick else "0"
            painter.drawText(QRectF(0, y - 10, frame.left - _GAP, 20), right, text)

    def _fill(self, painter: QPainter, shapes: list[Band], alpha: float) -> None:
        painter.setPen(Qt.PenStyle.NoPen)
        for band in shapes:
            colour = QColor(component_colour(theme().colours, band.name))
            colour.setAlphaF(alpha)
            painter.setBrush(colour)
            painter.drawPath(band.area)

    def _line(self, painter: QPainter, shapes: list[Band], width: float, dash: list[float] | None = None) -> None:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for band in shapes:
            pen = QPen(QColor(component_colour(theme().colours, band.name)), width)
            if dash is not None:
                pen.setDashPattern(dash)
            painter.setPen(pen)
            painter.drawPath(band.edge)

    def _paint_budget(self, painter: QPainter, scale: Scale) -> None:
        plan = self._view.plan
        if plan is None:
            return
        colours, frame = theme().colours, scale.frame
        y = frame.top + 1 if scale.beyond else scale.y(plan.budget_bytes)
        pen = QPen(QColor(colours.danger), 1.3)
        pen.setDashPattern(_BUDGET_DASH)
        painter.setPen(pen)
        painter.drawLine(QPointF(frame.left, y), QPointF(frame.right, y))
        text = f"budget {formatting.size(plan.budget_bytes)}" + (", far above" if scale.beyond else "")
        metrics = painter.fontMetrics()
        width = metrics.horizontalAdvance(text) + 2 * _GAP
        below = y - frame.top < metrics.height() + 2
        # at the left, where memory is still empty in most plans
        box = QRectF(frame.left + _GAP, y + 2 if below else y - metrics.height() - 1, width, metrics.height())
        ground = QColor(colours.panel)
        ground.setAlphaF(0.9)
        painter.fillRect(box, ground)
        painter.setPen(QColor(colours.danger))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)
        if scale.beyond:  # the axis is broken: the line is not where its bytes would be
            painter.setPen(QPen(QColor(colours.muted), 1.3))
            middle = frame.top + 8
            for shift in (0, 4):
                painter.drawLine(
                    QPointF(frame.left - 5, middle + shift + 2), QPointF(frame.left + 5, middle + shift - 2)
                )

    def _paint_phases(self, painter: QPainter, scale: Scale) -> None:
        assert self._view.outline is not None
        colours, frame = theme().colours, scale.frame
        metrics = painter.fontMetrics()
        for number, span in enumerate(self._view.outline.spans):
            left, right = scale.edges(number)
            if number:
                divider = QColor(colours.muted)
                divider.setAlphaF(0.6)
                painter.setPen(QPen(divider, 1))
                painter.drawLine(QPointF(left, frame.top), QPointF(left, frame.bottom + _GAP))
            text = plan_words.phase_label(self._view, span)
            room = right - left - _GAP
            if metrics.horizontalAdvance(text) > room:
                text = text.partition("  ")[0]
            painter.setPen(QColor(colours.muted))
            box = QRectF(left + (_GAP if number else 0), frame.bottom + 3, room + 2, metrics.height() + 2)
            elided = metrics.elidedText(text, Qt.TextElideMode.ElideRight, round(room) + 2)
            painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, elided)

    def _paint_labels(self, painter: QPainter) -> None:
        painter.setPen(QColor(theme().colours.text))
        for box, text in self._labels:
            painter.drawText(box, Qt.AlignmentFlag.AlignVCenter, text)
