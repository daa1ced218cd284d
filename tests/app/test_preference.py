"""Speed or quality, and what came with a picture: chosen in the window, sent with requests, remembered."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.settings import load_session
from app.studio import Studio
from core.messages import How, Request
from tests.app.fake_engine import FakeEngine, make_result, plain_picture
from tests.app.hands import make_picture


def test_the_slider_goes_with_every_request_from_then_on(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "a red house")
    assert engine.submitted[-1].how == How()
    studio.window.precision.slider.setValue(20)
    make_picture(qtbot, studio, "a blue house")
    assert engine.submitted[-1].how == How(prefer=1.0)
    # a draft in other formats than its picture would load everything twice
    assert studio.settings.request(draft=True).how == How(prefer=1.0)
    assert studio.foresight.outlook.what_if.card == ""
    assert studio.window.residency.what_if == ""  # it is meant for the engine, and no "what if"


def test_it_is_remembered(make_studio: Callable[..., Studio]) -> None:
    studio = make_studio(FakeEngine())
    studio.window.precision.slider.setValue(4)
    studio.window.close()
    session = load_session()
    assert session.settings.how == How(prefer=0.2)
    assert make_studio(FakeEngine(), session).window.precision.slider.value() == 4


def test_a_pictures_own_choice_comes_back_and_can_be_let_go(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    precision = studio.window.precision
    assert not precision.free.isVisible()
    how = How(prefer=0.25, formats={"transformer": "F32"}, cache=False)
    request = Request(prompt="a house", width=128, height=128, how=how)
    result = make_result(request, plain_picture(request, 1.0), 1.0, 8)
    studio.window.history.chosen.emit(result)
    assert studio.settings.how == how
    assert precision.slider.value() == 5
    qtbot.waitUntil(precision.free.isVisible)
    make_picture(qtbot, studio, "the same house")
    assert engine.submitted[-1].how == how
    qtbot.mouseClick(precision.free, Qt.MouseButton.LeftButton)
    assert studio.settings.how == How(prefer=0.25)
    assert not precision.free.isVisible()
