"""Plans in a thread of its own: a moment after the last change, one at a time, and only the newest is told."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

from PySide6.QtCore import QObject, QThreadPool, QTimer, Signal

from app import forecast
from app.forecast import Forecast, Wish

_log = logging.getLogger(__name__)

# Joins the keys of a number typed fast and the steps of a slider dragged; less than what is felt as waiting.
_DEBOUNCE_MS = 60
_REMEMBERED = 48


class Planner(QObject):
    """Asks the planner. `made` brings what was wished last."""

    made = Signal(object)  # Forecast
    choices = Signal(list, list)  # list[Card], list[(name, title)]: what "what if" can choose from

    _done = Signal(object)
    _read = Signal(list, list)

    def __init__(self, parent: QObject | None = None, plan: Callable[[Wish], Forecast] = forecast.forecast) -> None:
        super().__init__(parent)
        self._plan = plan
        self._pool = QThreadPool(self)
        self._pool.setMaxThreadCount(1)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DEBOUNCE_MS)
        self._timer.timeout.connect(self._begin)
        self._wanted: Wish | None = None
        self._busy = False
        self._closed = False
        self._made: OrderedDict[Wish, Forecast] = OrderedDict()
        self._done.connect(self._on_done)
        self._read.connect(self.choices)

    def ask(self, wish: Wish) -> None:
        """Plan this, and nothing that was asked for before. What was planned already comes at once."""
        if wish == self._wanted or self._closed:
            return
        self._wanted = wish
        if wish in self._made:
            self._timer.stop()
            self._tell(self._made[wish])
        else:
            self._timer.start()

    def read_choices(self) -> None:
        """Read the names of cards and models; `choices` brings them."""
        self._pool.start(self._read_choices)

    def close(self) -> None:
        """Plan nothing more."""
        self._closed = True
        self._wanted = None
        self._timer.stop()
        self._pool.clear()
        self._pool.waitForDone()

    def _begin(self) -> None:
        wish = self._wanted
        if wish is None or self._busy:
            return  # the newest follows when the one that runs is done
        self._busy = True
        self._pool.start(lambda: self._work(wish))

    def _work(self, wish: Wish) -> None:
        """In the thread."""
        try:
            result = self._plan(wish)
        except Exception:
            _log.exception("planning failed")
            result = Forecast(wish, sentence="Planning this failed; the log has the details.")
        self._done.emit(result)

    def _on_done(self, result: Forecast) -> None:
        self._busy = False
        if self._closed:
            return
        self._made[result.wish] = result
        while len(self._made) > _REMEMBERED:
            self._made.popitem(last=False)
        if self._wanted == result.wish:
            self._tell(result)
        elif self._wanted is not None and not self._timer.isActive():
            self._begin()

    def _tell(self, result: Forecast) -> None:
        self.made.emit(result)

    def _read_choices(self) -> None:
        try:
            self._read.emit(forecast.cards(), forecast.models())
        except Exception:
            _log.exception("the cards could not be read")
