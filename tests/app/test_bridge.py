"""The bridge against a real thread and a fake client."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from pytestqt.qtbot import QtBot

from app.bridge import EngineBridge
from core.library.queue import JobQueue
from core.messages import EngineStopped, ErrorKind, Event, Finished, Phase, Preview, Progress, Ready, Request, UserError
from tests.app.fake_engine import FakeEngine


class Listener:
    """What came out of a bridge."""

    def __init__(self, bridge: EngineBridge) -> None:
        self.events: list[Event] = []
        self.batches = 0
        self.trouble: list[str] = []
        self.threads: set[int] = set()
        bridge.events.connect(self._take)
        bridge.trouble.connect(self.trouble.append)

    def _take(self, events: list[Event]) -> None:
        self.batches += 1
        self.threads.add(threading.get_ident())
        self.events += events

    def has(self, kind: type) -> bool:
        return any(isinstance(event, kind) for event in self.events)


def test_a_request_goes_through(qtbot: QtBot) -> None:
    engine = FakeEngine()
    bridge = EngineBridge(lambda: engine)
    heard = Listener(bridge)
    bridge.start()
    bridge.submit(Request(prompt="a red house"))
    qtbot.waitUntil(lambda: heard.has(Finished))
    assert heard.threads == {threading.get_ident()}
    finished = next(event for event in heard.events if isinstance(event, Finished))
    assert finished.result.file.endswith(".png")
    assert "a-red-house" in finished.result.file
    assert bridge.close()
    assert engine.closed


def test_results_are_filed_and_come_back_at_the_next_start(qtbot: QtBot) -> None:
    first = EngineBridge(FakeEngine)
    heard = Listener(first)
    first.start()
    first.submit(Request(prompt="kept"))
    first.submit(Request(prompt="forgotten"))
    qtbot.waitUntil(lambda: sum(isinstance(event, Finished) for event in heard.events) == 2)
    assert first.close()
    second = EngineBridge(FakeEngine)
    with qtbot.waitSignal(second.page) as signal:
        second.start()
    assert {result.prompt for result in signal.args[0].results} == {"kept", "forgotten"}
    second.forget_result(next(result.id for result in signal.args[0].results if result.prompt == "forgotten"))
    assert second.close()
    third = EngineBridge(FakeEngine)
    with qtbot.waitSignal(third.page) as signal:
        third.start()
    assert [result.prompt for result in signal.args[0].results] == ["kept"]
    assert third.close()


def test_jobs_of_an_earlier_session_are_told(qtbot: QtBot) -> None:
    jobs = JobQueue(None)
    jobs.add(Request(prompt="left over", out="a.png"))
    bridge = EngineBridge(lambda: FakeEngine(jobs))
    with qtbot.waitSignal(bridge.jobs) as signal:
        bridge.start()
    assert [job.request.prompt for job in signal.args[0]] == ["left over"]
    assert bridge.close()


def test_a_second_window_is_told_of_the_first(qtbot: QtBot) -> None:
    def already_open() -> FakeEngine:
        raise UserError("Residency is already open; use that window, or close it first.")

    bridge = EngineBridge(already_open)
    heard = Listener(bridge)
    bridge.start()
    qtbot.waitUntil(lambda: heard.has(EngineStopped))
    stopped = heard.events[0]
    assert isinstance(stopped, EngineStopped)
    assert stopped.kind is ErrorKind.USER
    assert bridge.close()


def test_only_the_newest_preview_waits(qtbot: QtBot) -> None:
    bridge = EngineBridge(FakeEngine)
    heard = Listener(bridge)
    for step in range(1, 51):
        bridge.receive(Progress("a", Phase.DENOISE, step, 50))
        bridge.receive(Preview("a", step, 50, 1, 1, b"rgb"))
        bridge.receive(Preview("b", step, 50, 1, 1, b"rgb"))
    bridge.receive(Ready("cpu", "CPU", "", 0, 0))
    qtbot.waitUntil(lambda: heard.has(Ready))
    assert heard.batches == 1
    assert [type(event).__name__ for event in heard.events] == ["Progress", "Preview", "Preview", "Ready"]
    assert {event.step for event in heard.events if isinstance(event, Preview | Progress)} == {50}


def test_closing_before_starting_is_nothing() -> None:
    assert EngineBridge(FakeEngine).close()


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05, 0.2])
def test_closing_at_any_moment_ends(qtbot: QtBot, delay: float) -> None:
    engine = FakeEngine(step_seconds=0.02, start_seconds=0.05)
    bridge = EngineBridge(lambda: engine)
    bridge.start()
    bridge.submit(Request(prompt="a"))
    qtbot.wait(round(delay * 1000))
    begin = time.monotonic()
    assert bridge.close()
    assert time.monotonic() - begin < 3
    assert engine.closed


def test_an_error_of_a_command_is_one_sentence_and_not_the_end(qtbot: QtBot) -> None:
    engine = FakeEngine()

    def refuse(request: Request) -> None:
        raise UserError("The folder cannot be written to; choose another.")

    engine.submit = refuse  # type: ignore[method-assign]
    bridge = EngineBridge(lambda: engine)
    heard = Listener(bridge)
    bridge.start()
    bridge.submit(Request(prompt="a"))
    qtbot.waitUntil(lambda: bool(heard.trouble))
    assert heard.trouble == ["The folder cannot be written to; choose another."]
    bridge.warm_up("starter")
    qtbot.waitUntil(lambda: engine.warmed == ["starter"])
    assert bridge.close()


def test_a_client_that_cannot_be_made_is_told(qtbot: QtBot) -> None:
    tries = []

    def at_first_broken() -> FakeEngine:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("read-only file system")
        return FakeEngine()

    bridge = EngineBridge(at_first_broken)
    heard = Listener(bridge)
    bridge.start()
    qtbot.waitUntil(lambda: heard.has(EngineStopped))
    stopped = heard.events[0]
    assert isinstance(stopped, EngineStopped)
    assert "read-only file system" in stopped.reason
    assert not stopped.will_restart
    qtbot.waitUntil(bridge._thread.isFinished)
    bridge.restart()
    qtbot.waitUntil(lambda: heard.has(Ready))
    assert bridge.close()


def test_nothing_of_app_imports_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, app\n"
        "for module in pkgutil.walk_packages(app.__path__, 'app.'):\n"
        "    importlib.import_module(module.name)\n"
        "import core.engine.client\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} were imported' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is immortal there")
def test_none_outlives_many_calls_of_qt() -> None:
    # without app.pinning this ends in "Fatal Python error: none_dealloc"
    code = (
        "import app\n"
        "from PySide6.QtGui import QPainter, QPixmap, QGuiApplication\n"
        "application = QGuiApplication([])\n"
        "pixmap = QPixmap(4, 4); painter = QPainter(pixmap)\n"
        "for _ in range(200_000): painter.setRenderHint(QPainter.RenderHint.Antialiasing)\n"
        "painter.end()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
