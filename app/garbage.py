"""Looks for garbage in the window's thread only.

Python looks for unreachable cycles in whichever thread allocates when it is due. A widget in such a cycle would be
deleted there, and Qt lets an object be deleted only in the thread that owns it ("Threads and QObjects" in Qt's
documentation): the planner's thread would take the window down. So the automatic search is off while there is a
window, and a timer of the window's thread does it instead.
"""

from __future__ import annotations

import gc

from PySide6.QtCore import QObject, QTimer

_EVERY_MS = 1000


class GarbageCollector(QObject):
    """Takes the search over from Python until `stop`. Made in the thread that owns the widgets."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        gc.disable()
        # What starting made stays to the end; leaving it out of the search keeps that far below a frame's time.
        gc.freeze()
        self._timer = QTimer(self)
        self._timer.setInterval(_EVERY_MS)
        self._timer.timeout.connect(collect_due)
        self._timer.start()

    def stop(self) -> None:
        """Collect all that is left and give the search back to Python."""
        self._timer.stop()
        gc.unfreeze()
        gc.collect()
        gc.enable()


def collect_due() -> None:
    """Collect the oldest generation whose threshold is passed, as Python itself would; in the caller's thread."""
    counts, thresholds = gc.get_count(), gc.get_threshold()
    for generation in reversed(range(len(counts))):
        if thresholds[generation] and counts[generation] > thresholds[generation]:
            gc.collect(generation)
            return
