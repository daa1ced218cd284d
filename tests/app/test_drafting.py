"""Drafts of slow models wait for being asked; drafts that a dying engine took with it come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app import live
from app.settings import Session, load_session
from app.shown import Kind
from app.studio import Studio
from core.engine import client as client_module
from core.engine.client import Client
from core.engine.transport import OnExit
from core.library.queue import JobQueue
from core.messages import Command, Event, Finished, Ready, Request, Started, Submit, WarmedUp, WarmUp
from tests.app.fake_engine import FakeEngine, make_result, plain_picture
from tests.app.hands import CTRL, kind, press, type_text

MakeStudio = Callable[..., Studio]
SLOW = {"starter 0x0": 9.0}


def drafts(engine: FakeEngine) -> list[str]:
    return [request.prompt for request in engine.submitted if request.draft]


def settle(qtbot: QtBot) -> None:
    """Wait until a draft would have been asked for."""
    qtbot.wait(3 * live.DEBOUNCE_MS)


@pytest.fixture
def slow(make_studio: MakeStudio, engine: FakeEngine) -> Studio:
    """A studio whose model is known to be slow."""
    return make_studio(engine, Session(draft_seconds=dict(SLOW)))


def test_drafts_of_a_slow_model_wait_with_a_note(slow: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    drafting = slow.window.prompt.drafts
    assert drafting.note == "Drafts of this model take about 9 s; Ctrl+D or the button makes one."
    assert not drafting.switch.isChecked()
    type_text(qtbot, slow, "a red house")
    settle(qtbot)
    assert drafts(engine) == []


def test_ctrl_d_and_the_button_make_one_draft_each(slow: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    engine.step_seconds = 0.8
    type_text(qtbot, slow, "a red house")
    press(qtbot, slow, Qt.Key.Key_D, CTRL)
    qtbot.waitUntil(lambda: slow.state.work is not None)  # how far it is can be seen
    type_text(qtbot, slow, " by the sea")
    press(qtbot, slow, Qt.Key.Key_Backspace)
    qtbot.waitUntil(lambda: kind(slow) is Kind.DRAFT)
    # it was asked for, so it comes although the text has changed; the next one is asked for again
    assert drafts(engine) == ["a red house"]
    assert slow.state.work is None
    qtbot.mouseClick(slow.window.prompt.drafts.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: drafts(engine) == ["a red house", "a red house by the se"])


def test_a_model_that_turns_out_quick_is_drafted_while_typing(slow: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    type_text(qtbot, slow, "a red house")
    press(qtbot, slow, Qt.Key.Key_D, CTRL)
    qtbot.waitUntil(lambda: slow.window.prompt.drafts.note == "")
    assert slow.window.prompt.drafts.switch.isChecked()
    count = len(drafts(engine))
    type_text(qtbot, slow, " by the sea")
    qtbot.waitUntil(lambda: len(drafts(engine)) > count)


def test_the_switch_drafts_a_slow_model_all_the_same_and_that_is_remembered(
    slow: Studio, make_studio: MakeStudio, engine: FakeEngine, qtbot: QtBot
) -> None:
    qtbot.mouseClick(slow.window.prompt.drafts.switch, Qt.MouseButton.LeftButton)
    assert slow.window.prompt.drafts.note == ""
    assert slow.window.prompt.drafts.switch.isChecked()
    type_text(qtbot, slow, "a red house")
    qtbot.waitUntil(lambda: drafts(engine) == ["a red house"])
    slow.window.close()
    session = load_session()
    assert session.drafted_anyway == ["starter"]
    session.draft_seconds = dict(SLOW)
    again = make_studio(FakeEngine(), session)
    assert again.window.prompt.drafts.switch.isChecked()
    # switched off, it waits for being asked again; other models are not concerned
    qtbot.mouseClick(again.window.prompt.drafts.switch, Qt.MouseButton.LeftButton)
    assert "Ctrl+D" in again.window.prompt.drafts.note
    assert again.settings.live


def test_a_slow_model_is_found_out_by_its_first_draft(
    make_studio: MakeStudio, engine: FakeEngine, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr("app.pace.SLOW_SECONDS", 0.3)
    engine.step_seconds = 0.3
    studio = make_studio(engine)
    type_text(qtbot, studio, "a red")
    # before it is even done
    qtbot.waitUntil(lambda: studio.window.prompt.drafts.note != "")
    assert kind(studio) is not Kind.DRAFT
    type_text(qtbot, studio, " house")
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)
    assert drafts(engine) == ["a red"]  # it was not cancelled by the text typed on, so the pace is known now
    assert "about 1 s" in studio.window.prompt.drafts.note
    studio.save()
    qtbot.waitUntil(lambda: load_session().draft_seconds.get("starter 0x0", 0.0) > 0.8)


def test_what_was_drafted_is_shown_again_without_asking(slow: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    engine.step_seconds = 0.8
    type_text(qtbot, slow, "a house")
    press(qtbot, slow, Qt.Key.Key_D, CTRL)
    qtbot.waitUntil(lambda: kind(slow) is Kind.DRAFT)
    first = slow.state.picture
    type_text(qtbot, slow, "s")
    settle(qtbot)
    assert drafts(engine) == ["a house"]
    slow.state.picture = None
    press(qtbot, slow, Qt.Key.Key_Backspace)
    assert slow.state.picture is not None
    assert slow.state.picture.id == first.id  # type: ignore[union-attr]


def test_with_drafts_switched_off_one_can_be_asked_for(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    press(qtbot, studio, Qt.Key.Key_D, CTRL | Qt.KeyboardModifier.ShiftModifier)
    assert not studio.window.prompt.drafts.switch.isChecked()
    type_text(qtbot, studio, "a red house")
    settle(qtbot)
    assert drafts(engine) == []
    press(qtbot, studio, Qt.Key.Key_D, CTRL)
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)
    assert drafts(engine) == ["a red house"]


def test_a_slow_draft_stopped_by_escape_leaves_nothing_behind(slow: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    engine.step_seconds = 0.2
    type_text(qtbot, slow, "a red house")
    press(qtbot, slow, Qt.Key.Key_D, CTRL)
    qtbot.waitUntil(lambda: kind(slow) is Kind.PREVIEW)
    press(qtbot, slow, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: slow.state.picture is None and slow.state.work is None)


class MortalEngine:
    """A transport whose first engines die over the first request that they take."""

    deaths_left = 1

    def start(self, on_event: Callable[[Event], None], on_exit: OnExit) -> None:
        self.say, self.die = on_event, on_exit
        self.say(Ready("cpu", "CPU", "2.13.0", 0, 0))

    def send(self, command: Command) -> None:
        if isinstance(command, Submit):
            threading.Timer(0.05, self._make, (command.request,)).start()
        elif isinstance(command, WarmUp):
            self.say(WarmedUp(command.model, 0.1))

    def stop(self) -> None:
        self.die("stopped")

    def _make(self, request: Request) -> None:
        self.say(Started(request.id, request))
        if MortalEngine.deaths_left > 0:
            MortalEngine.deaths_left -= 1
            self.die("the engine was ended by SIGKILL")
            return
        image = plain_picture(request, 1.0)
        self.say(Finished(request.id, make_result(request, image, 0.1, 3), image.tobytes()))


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_draft_lost_with_its_engine_is_made_by_the_next_one(
    make_studio: MakeStudio, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, deaths: int
) -> None:
    monkeypatch.setattr(client_module, "RESTART_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(MortalEngine, "deaths_left", deaths)
    studio = make_studio(cast(FakeEngine, Client(MortalEngine, JobQueue(None))))
    type_text(qtbot, studio, "a red house")
    if deaths == 1:
        qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)
        assert studio.state.picture.result.prompt == "a red house"  # type: ignore[union-attr]
        assert studio.window.notice.sentence == ""
    else:
        qtbot.waitUntil(lambda: "2 times while making a draft" in studio.window.notice.sentence)
