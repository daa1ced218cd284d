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
from core.plans import ComponentPlan

_NOTCHES = 20
_SAME_BYTES = 0.03


class PrecisionPanel(QFrame):
    """Hidden until something is known of the model."""

    what_if_changed = Signal(object)  # WhatIf
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
        """Show a choice; nothing counts as changed."""
        with QSignalBlocker(self.slider):
            self.slider.setValue(round(wanted.prefer * _NOTCHES))
        self.controls.choose(wanted)

    def show_view(self, view: View, state: StudioState) -> None:
        """Show the plan's components; without a plan those that the engine has told of."""
        self.table.show_lines(_lines(view, state))
        where = {"cpu": "in main memory", "cuda": "on the GPU"}.get(state.accelerator, "on the device")
        self._now.setText(f"{formatting.size(view.resident_bytes)} now" if view.resident_bytes else "")
        self._now.setToolTip(f"{formatting.size(view.resident_bytes)} {where} now")
        plan = view.plan
        self._effect.setText(plan_words.effect(view.outline) if view.outline is not None else "")
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
            formatting.tooltip("Left: the fastest plan. Right: the best weights, however long it takes.")
        )
        self.controls.hide()
        self._reasons.hide()
        for button, part in ((self.what_if, self.controls), (self.why, self._reasons)):
            button.toggled.connect(part.setVisible)
            button.toggled.connect(self._redraw)
        self.why.toggled.connect(self.why_opened)
        self.slider.valueChanged.connect(self._tell)
        self.controls.changed.connect(self._tell)
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
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 10)
        layout.setSpacing(6)
        layout.addLayout(head)
        layout.addWidget(self.table)
        layout.addWidget(self._balance)
        more = row(self.what_if, self.why, spacing=16)
        more.addStretch(1)
        layout.addLayout(more)
        layout.addWidget(self.controls)
        layout.addWidget(self._reasons)

    def _tell(self) -> None:
        self.what_if_changed.emit(self.controls.chosen(self.slider.value() / _NOTCHES))

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
