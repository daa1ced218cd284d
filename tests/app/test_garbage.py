"""Widgets that only reach each other are deleted, and only by the window's thread."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading

import pytest
from PySide6.QtCore import QObject

from app.garbage import GarbageCollector, collect_due


class Cycle(QObject):
    """Reaches itself, and says which thread let it go."""

    def __init__(self, deaths: list[int]) -> None:
        super().__init__()
        self.itself = self
        self.deaths = deaths

    def __del__(self) -> None:
        self.deaths.append(threading.get_ident())


def _allocate(count: int) -> None:
    kept = [[object()] for _ in range(count)]
    del kept


@pytest.mark.usefixtures("qapp")
def test_only_the_windows_thread_collects(qtbot: object) -> None:
    collector = GarbageCollector()
    deaths: list[int] = []
    try:
        for _ in range(50):
            Cycle(deaths)
        worker = threading.Thread(target=_allocate, args=(200_000,))
        worker.start()
        worker.join()
        assert deaths == []
        kept = [[] for _ in range(5_000)]  # passes the first threshold, as a busy second of the window does
        qtbot.waitUntil(lambda: len(deaths) == 50, timeout=5_000)  # type: ignore[attr-defined]
        assert set(deaths) == {threading.get_ident()}
        del kept
    finally:
        collector.stop()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    gc.disable()  # as the other tests of the window want it


def test_nothing_is_collected_before_it_is_due() -> None:
    gc.collect()
    deaths: list[int] = []
    Cycle(deaths)
    collect_due()
    assert deaths == []
    gc.collect()
    assert len(deaths) == 1


def test_planning_in_a_thread_does_not_take_widgets_with_it() -> None:
    """Timers and shown widgets in cycles, and a thread that allocates without end, in a process of their own."""
    program = textwrap.dedent(
        """
        import os, sys, threading
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
        import app
        from PySide6.QtCore import QTimer
        from PySide6.QtWidgets import QApplication, QWidget
        from app.garbage import GarbageCollector

        application = QApplication([])
        GarbageCollector(application)
        done = threading.Event()

        def allocate():
            while not done.is_set():
                [[{}] for _ in range(1000)]

        def widgets():
            for _ in range(20):
                timer, box = QTimer(), QWidget()
                timer.itself, box.itself = timer, box
                timer.start(10)
                box.show()

        worker = threading.Thread(target=allocate)
        worker.start()
        timer = QTimer()
        timer.timeout.connect(widgets)
        timer.start(5)
        QTimer.singleShot(3000, application.quit)
        application.exec()
        done.set()
        worker.join()
        print("alive")
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    # Qt warns when a timer is stopped in a thread that is not its own
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "alive", "")
