"""The residency panels through their real widgets, with the real planner."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from PySide6.QtCore import QPointF, Qt
from PySide6.QtGui import QImage
from pytestqt.qtbot import QtBot

from app.forecast import Forecast, Wish
from app.outline import from_plan
from app.planner import Planner
from app.settings import Session, Settings, load_session
from app.studio import Studio
from app.view import View, WhatIf
from app.widgets.chart import ResidencyChart
from core.messages import EngineStopped, LedgerRecord
from tests.app.fake_engine import FakeEngine
from tests.app.hands import CTRL, make_picture, press
from tests.app.plans import GB, plan


def settled(studio: Studio, qtbot: QtBot) -> None:
    """Wait for the plan of what is asked for now."""

    def done() -> bool:
        outlook = studio.foresight.outlook
        wish = outlook.wish(studio.settings, studio.models.defaults)
        return outlook.forecast is not None and (wish is None or outlook.forecast.wish == wish)

    qtbot.waitUntil(done, timeout=20_000)


def test_the_plan_is_there_before_anything_runs(studio: Studio, qtbot: QtBot) -> None:
    settled(studio, qtbot)
    window = studio.window
    assert window.residency.isVisible()
    assert "peak" in window.residency.summary
    assert [line.name for line in window.precision.table.lines] == [
        "text_encoder", "text_encoder_2", "transformer", "vae",
    ]  # fmt: skip
    assert window.precision.reasons


def test_settings_change_the_plan_at_once(studio: Studio, qtbot: QtBot) -> None:
    settled(studio, qtbot)
    studio.window.options.steps.setValue(40)
    settled(studio, qtbot)
    outline = studio.foresight.outlook.view(studio.settings, studio.models.defaults).outline
    assert outline is not None
    assert outline.spans[1].plan is not None
    assert outline.spans[1].plan.steps == 40


def test_after_the_picture_both_are_told(studio: Studio, qtbot: QtBot) -> None:
    settled(studio, qtbot)
    make_picture(qtbot, studio, "a red house")
    qtbot.waitUntil(lambda: "took" in studio.window.residency.summary)
    assert studio.window.residency.summary.startswith("predicted ")


def test_another_card_is_labelled_and_left_by_the_button(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    precision, residency = studio.window.precision, studio.window.residency
    controls = precision.controls
    qtbot.waitUntil(lambda: controls.card.count() > 60, timeout=20_000)
    assert controls.card.itemText(0).startswith("This machine")
    controls.card.setEditText("rx 7800")
    controls.card.text.editingFinished.emit()
    assert controls.card.currentData() == "rx-7800-xt"
    settled(studio, qtbot)
    assert residency.what_if == "As it would be on an RX 7800 XT"
    assert residency.back.isVisible()
    controls.memory.setCurrentIndex(controls.memory.findText("8 GB"))
    controls.memory.activated.emit(controls.memory.currentIndex())
    settled(studio, qtbot)
    assert residency.what_if == "As it would be on an RX 7800 XT with 8 GB"
    make_picture(qtbot, studio, "a house")
    assert engine.submitted[-1].model == "starter"  # the engine hears nothing of it
    assert residency.what_if
    qtbot.mouseClick(residency.back, Qt.MouseButton.LeftButton)
    settled(studio, qtbot)
    assert residency.what_if == ""
    assert controls.card.currentIndex() == 0


def test_what_is_no_card_goes_back_to_the_last(studio: Studio, qtbot: QtBot) -> None:
    card = studio.window.precision.controls.card
    qtbot.waitUntil(lambda: card.count() > 60, timeout=20_000)
    card.setEditText("no such card")
    card.text.editingFinished.emit()
    assert card.currentIndex() == 0
    assert card.text.text().startswith("This machine")


def test_the_slider_shows_its_effect(studio: Studio, qtbot: QtBot) -> None:
    studio.foresight.ask_what_if(WhatIf("flux-schnell", "rx-7800-xt"))
    settled(studio, qtbot)
    before = studio.window.precision.effect
    studio.window.precision.slider.setValue(0)
    settled(studio, qtbot)
    assert studio.window.precision.effect != before
    assert "Q4_K" in {line.format for line in studio.window.precision.table.lines}


def test_a_picture_that_does_not_fit_is_one_sentence(studio: Studio, qtbot: QtBot) -> None:
    studio.foresight.ask_what_if(WhatIf("flux-schnell", "rtx-3060", GB))
    settled(studio, qtbot)
    view = studio.foresight.outlook.view(studio.settings, studio.models.defaults)
    assert "needs at least" in view.sentence
    assert studio.window.precision.table.lines == []
    assert "needs at least" in studio.window.residency.chart.accessibleDescription()


def test_a_stopped_engine_holds_nothing(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    engine.say(LedgerRecord(time.time(), "a", "starter", "vae", "F32", 1000, 1000, "loaded"))
    qtbot.waitUntil(lambda: studio.state.runs.resident_bytes > 0)
    engine.say(EngineStopped(False, "killed", False))
    qtbot.waitUntil(lambda: studio.state.runs.resident_bytes == 0)


def test_the_keyboard_goes_to_the_chart_and_through_its_phases(studio: Studio, qtbot: QtBot) -> None:
    settled(studio, qtbot)
    chart = studio.window.residency.chart
    press(qtbot, studio, Qt.Key.Key_M, CTRL)
    qtbot.waitUntil(chart.hasFocus)
    told = []
    for key in (Qt.Key.Key_Right, Qt.Key.Key_Right, Qt.Key.Key_End, Qt.Key.Key_Left, Qt.Key.Key_Home):
        qtbot.keyClick(chart, key)
        told.append(chart.accessibleDescription().partition(":")[0])
    assert told == ["encode", "denoise", "decode", "denoise", "encode"]
    qtbot.keyClick(chart, Qt.Key.Key_M, CTRL)
    assert chart.isHidden()
    qtbot.waitUntil(studio.window.prompt.edit.hasFocus)


def test_folding_is_remembered(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    studio = make_studio(FakeEngine())
    qtbot.mouseClick(studio.window.residency.fold, Qt.MouseButton.LeftButton)
    studio.window.precision.why.setChecked(True)
    studio.window.close()
    session = load_session()
    assert session.chart_open is False
    again = make_studio(FakeEngine(), session)
    assert again.window.residency.chart.isHidden()
    assert again.window.precision.why.isChecked()
    assert again.window.residency.isVisible()


def test_a_low_window_folds_it_by_itself(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    studio = make_studio(FakeEngine(), Session(settings=Settings()))
    studio.window.resize(960, 540)
    qtbot.waitUntil(studio.window.residency.chart.isHidden)
    studio.window.resize(1280, 800)
    qtbot.waitUntil(studio.window.residency.chart.isVisible)
    assert studio.window.chart_open is None


# -- the chart alone ------------------------------------------------------------------------------------------


@pytest.fixture
def chart(qtbot: QtBot) -> ResidencyChart:
    widget = ResidencyChart()
    qtbot.addWidget(widget)
    widget.setFixedHeight(160)
    widget.resize(700, 160)
    widget.show_view(View(from_plan(plan(), {})))
    return widget


def test_the_pointer_tells_what_lies_under_it(chart: ResidencyChart) -> None:
    drawing = chart._drawing
    assert drawing is not None
    x = drawing.scale.x(9.0)
    tip = chart.tip_at(QPointF(x, drawing.scale.y(4 * GB)))
    assert "Transformer · Q6_K · 6.0 GB" in tip
    assert "streamed in every pass" in tip
    above = chart.tip_at(QPointF(x, drawing.scale.y(9.5 * GB)))
    assert above.startswith("<p>denoise: 8.0 s predicted")
    assert chart.tip_at(QPointF(2, 50)) == ""


def test_painting_is_cheap(chart: ResidencyChart) -> None:
    view = View(from_plan(plan(), {}), from_plan(plan(), {}).layers, 5.0)
    chart.show_view(view)
    image = QImage(700, 160, QImage.Format.Format_ARGB32_Premultiplied)
    chart.render(image)
    begin = time.process_time()
    for _ in range(50):
        chart.render(image)
    assert (time.process_time() - begin) / 50 < 0.004  # 1 ms where the processor is free


def test_every_layer_is_painted_in_its_colour(chart: ResidencyChart) -> None:
    image = chart.grab().toImage()
    drawing = chart._drawing
    assert drawing is not None
    colours = set()
    for name, amount in (("text_encoder", 0.5), ("transformer", 5.0)):
        y = drawing.scale.y(amount * GB)
        colours.add((name, image.pixelColor(round(drawing.scale.x(9.8)) - 4, round(y)).name()))
    assert len({colour for _, colour in colours}) == 2


# -- planning in its thread -----------------------------------------------------------------------------------


def test_only_the_newest_wish_is_told(qtbot: QtBot) -> None:
    asked: list[Wish] = []

    def slow(wish: Wish) -> Forecast:
        asked.append(wish)
        time.sleep(0.1)
        return Forecast(wish)

    planner = Planner(plan=slow)
    made: list[Forecast] = []
    planner.made.connect(made.append)
    for steps in (1, 2, 3):
        planner.ask(Wish("starter", steps=steps))
    qtbot.waitUntil(lambda: len(asked) == 1)
    assert asked[0].steps == 3  # keys typed fast are one wish
    planner.ask(Wish("starter", steps=4))
    planner.ask(Wish("starter", steps=5))
    qtbot.waitUntil(lambda: len(made) == 1)
    assert [entry.wish.steps for entry in made] == [5]
    planner.ask(Wish("starter", steps=3))  # planned before: it comes at once
    assert [entry.wish.steps for entry in made] == [5, 3]
    planner.close()


def test_a_failure_of_ours_is_a_sentence(qtbot: QtBot) -> None:
    def broken(wish: Wish) -> Forecast:
        raise ValueError("unexpected")

    planner = Planner(plan=broken)
    with qtbot.waitSignal(planner.made) as made:
        planner.ask(Wish("starter"))
    assert made.args is not None
    assert "failed" in made.args[0].sentence
    planner.close()
