"""Connects plans with the panels that show them: what is planned when, and whose plan is seen."""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer, Signal

from app.forecast import Card, Forecast
from app.models import Models
from app.outlook import Outlook
from app.planner import Planner
from app.settings import Settings
from app.state import StudioState
from app.view import View, WhatIf
from app.window import StudioWindow

# While a picture is made the present moment moves on between the engine's events.
_TICK_MS = 120


class Foresight(QObject):
    """Asks for plans and shows them. Nothing here changes what the engine does."""

    shown = Signal(object)  # View

    def __init__(
        self,
        window: StudioWindow,
        state: StudioState,
        settings: Settings,
        models: Models,
        parent: QObject,
        planner: Planner | None = None,
    ) -> None:
        super().__init__(parent)
        self._window, self._state, self._settings, self._models = window, state, settings, models
        self.planner = planner or Planner(self)
        self.outlook = Outlook(state.runs)
        self._begun = False
        self._tick = QTimer(self)
        self._tick.setInterval(_TICK_MS)
        self._tick.timeout.connect(self.show)
        self.planner.made.connect(self._on_made)
        self.planner.choices.connect(self._on_choices)
        window.precision.what_if_changed.connect(self.ask_what_if)
        window.residency.back_wanted.connect(lambda: self.ask_what_if(WhatIf()))

    def begin(self) -> None:
        """After the first frame: read the cards, and plan what is in the prompt panel."""
        self._begun = True
        self.planner.read_choices()
        self.changed()

    def changed(self) -> None:
        """Settings or memory changed: plan again what they come to, if that is anything new."""
        if not self._begun:
            return
        wish = self.outlook.wish(self._settings, self._models.defaults)
        if wish is not None:
            self.planner.ask(wish)
        self.show()

    def ask_what_if(self, wanted: WhatIf) -> None:
        """Show another card's plan, or this machine's again."""
        self.outlook.what_if = wanted
        self._window.precision.choose(wanted)
        self.changed()

    def show(self) -> None:
        """Show the view as it is now."""
        view = self.outlook.view(self._settings, self._models.defaults)
        self._window.residency.show_view(view)
        self._window.precision.show_view(view, self._state)
        self._keep_ticking(view)
        self.shown.emit(view)

    def close(self) -> None:
        """Plan and show nothing more."""
        self._tick.stop()
        self._begun = False
        self.planner.close()

    def _on_made(self, made: Forecast) -> None:
        self.outlook.forecast = made
        self.show()

    def _on_choices(self, cards: list[Card], models: list[tuple[str, str]]) -> None:
        self._window.precision.show_choices(cards, models)
        self._window.precision.choose(self.outlook.what_if)

    def _keep_ticking(self, view: View) -> None:
        moving = view.now is not None and self._window.isVisible()
        if moving != self._tick.isActive():
            if moving:
                self._tick.start()
            else:
                self._tick.stop()
