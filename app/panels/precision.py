"""What goes where, and why: the components, the balance of speed and quality, "what if", and the plan's reasons."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QFrame, QPushButton, QSlider, QVBoxLayout, QWidget

from app import formatting, plan_words
from app.forecast import Card
from app.outline import layer_rank
from app.state import StudioState
from app.theme.theme import theme
from app.view import View, WhatIf
from app.widgets.component_table import Line, Table
from app.widgets.controls import ElidedLabel, label, row
from app.widgets.sentences import Sentences
from app.widgets.whatif import WhatIfControls
from core.messages import How
from core.plans import ComponentPlan

_NOTCHES = 20
_SAME_BYTES = 0.03


class PrecisionPanel(QFrame):
    """Hidden until something is known of the model."""

    what_if_changed = Signal(object)  # WhatIf
    preferred = Signal(float)  # 0: speed, 1: quality
    freed = Signal()  # the planner is to choose all that was fixed
    why_opened = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.table = Table()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.controls = WhatIfControls()
        self.what_if = _disclosure("What if I had…", "What if: another card, memory or model")
        self.why = _disclosure("Why", "Why the plan is so")
        self._now = label("", "small")
        self._effect = ElidedLabel("", "small")
        self._balance = QWidget()
        self._fixed = QWidget()
        self._fixed_words = label("", "small")
        self.free = QPushButton("Let the planner choose")
        self._reasons = Sentences()
        self._prepare()
        self._lay_out()
        self.hide()

    @property
    def effect(self) -> str:
        """What the balance of speed and quality comes to."""
        return self._effect.text()

    @property
    def reasons(self) -> str:
        """All reasons, one a line."""
        return "\n".join(self._reasons.sentences)

    def show_choices(self, cards: list[Card], models: list[tuple[str, str]]) -> None:
        """The cards and models of "what if"."""
        self.controls.show_choices(cards, models)

    def choose(self, wanted: WhatIf) -> None:
        """Show a choice of "what if"; nothing counts as changed."""
        self.controls.choose(wanted)

    def show_how(self, how: How) -> None:
        """Show what the person fixed; nothing counts as changed."""
        with QSignalBlocker(self.slider):
            self.slider.setValue(round(how.prefer * _NOTCHES))
        words = plan_words.fixed(how)
        self._fixed_words.setText(f"As with the picture: {words}")
        self._fixed.setVisible(bool(words))

    def show_view(self, view: View, state: StudioState) -> None:
        """Show the plan's components; without a plan those that the engine has told of."""
        self.table.show_lines(_lines(view, state))
        where = {"cpu": "in main memory", "cuda": "on the GPU"}.get(state.accelerator, "on the device")
        self._now.setText(f"{formatting.size(view.resident_bytes)} now" if view.resident_bytes else "")
        self._now.setToolTip(f"{formatting.size(view.resident_bytes)} {where} now")
        plan = view.plan
        self._effect.setText(plan_words.effect(view.outline, settled=view.settled) if view.outline is not None else "")
        reasons = plan_words.reasons(plan) if plan is not None else []
        self._reasons.show_sentences(reasons)
        self._balance.setVisible(plan is not None or bool(view.what_if))
        self.why.setVisible(bool(reasons))
        self._reasons.setVisible(bool(reasons) and self.why.isChecked())
        self.setVisible(bool(self.table.lines) or view.outline is not None or bool(view.sentence))

    def _prepare(self) -> None:
        self.slider.setRange(0, _NOTCHES)
        self.slider.setValue(_NOTCHES // 2)
        self.slider.setPageStep(_NOTCHES // 4)
        self.slider.setAccessibleName("Speed or quality")
        self.slider.setToolTip(
            formatting.tooltip(
                "Left: the fastest plan. Right: the best weights, however long it takes. It counts from the next "
                "picture on."
            )
        )
        self._fixed_words.setWordWrap(True)
        self.free.setProperty("role", "quiet")
        self.free.setToolTip(formatting.tooltip("These were chosen with the picture whose settings were taken over."))
        self.free.clicked.connect(self.freed)
        self._fixed.hide()
        self.controls.hide()
        self._reasons.hide()
        for button, part in ((self.what_if, self.controls), (self.why, self._reasons)):
            button.toggled.connect(part.setVisible)
            button.toggled.connect(self._redraw)
        self.why.toggled.connect(self.why_opened)
        self.slider.valueChanged.connect(lambda value: self.preferred.emit(value / _NOTCHES))
        self.controls.changed.connect(lambda: self.what_if_changed.emit(self.controls.chosen()))
        theme().changed.connect(self._redraw)
        self._redraw()

    def _lay_out(self) -> None:
        head = row(label("What goes where", "title"), self._now)
        head.setAlignment(self._now, Qt.AlignmentFlag.AlignRight)
        sides = row(label("Faster", "small"), self.slider, label("Finer", "small"))
        sides.setStretch(1, 1)
        balance = QVBoxLayout(self._balance)
        balance.setContentsMargins(0, 2, 0, 0)
        balance.setSpacing(6)
        balance.addLayout(sides)
        balance.addWidget(self._effect)
        fixed = QVBoxLayout(self._fixed)
        fixed.setContentsMargins(0, 2, 0, 0)
        fixed.setSpacing(0)
        fixed.addWidget(self._fixed_words)
        fixed.addWidget(self.free, alignment=Qt.AlignmentFlag.AlignLeft)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 10)
        layout.setSpacing(6)
        layout.addLayout(head)
        layout.addWidget(self.table)
        layout.addWidget(self._balance)
        layout.addWidget(self._fixed)
        more = row(self.what_if, self.why, spacing=16)
        more.addStretch(1)
        layout.addLayout(more)
        layout.addWidget(self.controls)
        layout.addWidget(self._reasons)

    def _redraw(self) -> None:
        for button in (self.what_if, self.why):
            name = "chevron-down" if button.isChecked() else "chevron-right"
            button.setIcon(theme().icon(name, theme().colours.muted))


def _disclosure(text: str, name: str) -> QPushButton:
    button = QPushButton(text)
    button.setProperty("role", "quiet")
    button.setCheckable(True)
    button.setAccessibleName(name)
    return button


def _lines(view: View, state: StudioState) -> list[Line]:
    plan = view.plan
    if plan is None and view.what_if:
        return []  # what does not fit there goes nowhere
    if plan is None:
        known = [component for component in state.components.values() if component.bytes]
        lines = [
            Line(one.name, one.format, one.bytes, "in memory now" if one.resident else "not in memory") for one in known
        ]
        return sorted(lines, key=lambda line: layer_rank(line.name))
    return [_line(view, state, component, plan_words.why_of(plan, component.name)) for component in plan.components]


def _line(view: View, state: StudioState, planned: ComponentPlan, why: str) -> Line:
    """A component as planned. What the engine says of its format is true; where its bytes are others, that is told."""
    there, stored, note = state.components.get(planned.name), planned.format, plan_words.stays(planned)
    if there is not None and there.resident and there.format != planned.format and not view.what_if:
        if abs(there.resident - planned.bytes) < _SAME_BYTES * planned.bytes:
            stored = there.format
        else:
            note = f"now there as {there.format}, {formatting.size(there.resident)}"
    return Line(planned.name, stored, planned.bytes, note, why)
