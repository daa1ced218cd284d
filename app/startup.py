"""How long starting takes: from the process's start to the first painted frame, against a bare window."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QEvent, QObject, QTimer
from PySide6.QtWidgets import QApplication, QMainWindow, QWidget

_IMPORTED = time.monotonic()
WINDOW_SIZE = (1280, 800)


def process_age() -> float:
    """Seconds since this process was started, by the system's own record; since this import where there is none."""
    try:
        # field 22 is the start in clock ticks since boot (proc(5)); the name in field 2 may hold spaces
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        pass
    if sys.platform == "win32":
        return _windows_age()
    return time.monotonic() - _IMPORTED


def _windows_age() -> float:
    import ctypes

    times = [ctypes.c_uint64() for _ in range(4)]
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    kernel.GetProcessTimes(kernel.GetCurrentProcess(), *(ctypes.byref(value) for value in times))
    now = ctypes.c_uint64()
    kernel.GetSystemTimeAsFileTime(ctypes.byref(now))
    return float(now.value - times[0].value) / 1e7  # in 100 ns


class FirstFrame(QObject):
    """Calls back once, when a window has painted itself for the first time."""

    def __init__(self, window: QWidget, painted: Callable[[float], None]) -> None:
        super().__init__(window)
        self._painted = painted
        window.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Wait for the first Paint."""
        if event.type() == QEvent.Type.Paint:
            watched.removeEventFilter(self)
            # the timer fires when this paint has been flushed to the screen
            QTimer.singleShot(0, lambda: self._painted(process_age()))
        return False


def bare_window() -> dict[str, float]:
    """The same measurement of a program that shows an empty QMainWindow, in a process of its own."""
    import subprocess  # only when measuring

    command = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "app.startup"]
    output = subprocess.run(
        [*command, "--bare-window"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[1],
    ).stdout
    figures: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return figures


def show_bare_window() -> None:
    """Show an empty QMainWindow, print the seconds to its first frame and quit."""
    application = QApplication(sys.argv[:1])
    window = QMainWindow()
    window.resize(*WINDOW_SIZE)

    def painted(seconds: float) -> None:
        figures = {"bare_window_seconds": seconds, "bare_window_cpu_seconds": time.process_time()}
        print(json.dumps(figures), flush=True)
        application.quit()

    FirstFrame(window, painted)
    window.show()
    application.exec()


if __name__ == "__main__":
    show_bare_window()
