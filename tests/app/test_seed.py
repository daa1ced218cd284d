"""The seed's field: every seed that a request may carry."""

from __future__ import annotations

from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from pytestqt.qtbot import QtBot

from app.studio import Studio
from app.widgets.seed import SeedField
from core.library import metadata
from core.messages import Request
from core.models.check import MAX_SEED
from tests.app.fake_engine import FakeEngine, make_result, plain_picture
from tests.app.hands import CTRL, drop, full_requests, press

LONG = 2**62 + 12345


@pytest.fixture
def field(qtbot: QtBot, qapp: object) -> SeedField:
    field = SeedField("Seed")
    qtbot.addWidget(field)
    field.show()
    return field


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32, LONG, MAX_SEED])
def test_the_whole_range_can_be_shown_and_typed(field: SeedField, qtbot: QtBot, seed: int) -> None:
    field.set_seed(seed)
    assert field.seed() == seed
    field.set_seed(1)
    field.selectAll()
    qtbot.keyClicks(field, str(seed))
    assert field.seed() == seed


def test_up_and_down_step_to_the_ends(field: SeedField, qtbot: QtBot) -> None:
    field.set_seed(LONG)
    qtbot.keyClick(field, Qt.Key.Key_Up)
    assert field.seed() == LONG + 1
    qtbot.keyClick(field, Qt.Key.Key_Down)
    qtbot.keyClick(field, Qt.Key.Key_Down)
    assert field.seed() == LONG - 1
    qtbot.keyClick(field, Qt.Key.Key_PageUp)
    assert field.seed() == LONG + 9
    field.set_seed(MAX_SEED)
    qtbot.keyClick(field, Qt.Key.Key_Up)
    assert field.seed() == MAX_SEED
    field.set_seed(0)
    qtbot.keyClick(field, Qt.Key.Key_Down)
    assert field.seed() == 0


def test_only_digits_of_a_usable_seed_can_be_typed(field: SeedField, qtbot: QtBot) -> None:
    field.selectAll()
    qtbot.keyClicks(field, "1x-2 3")
    assert field.seed() == 123
    field.selectAll()
    qtbot.keyClicks(field, str(MAX_SEED + 1))
    assert field.seed() == (MAX_SEED + 1) // 10
    QGuiApplication.clipboard().setText("no seed")
    field.selectAll()
    qtbot.keyClick(field, Qt.Key.Key_V, CTRL)
    assert field.seed() == (MAX_SEED + 1) // 10


def test_a_change_is_told_once_when_it_is_finished(field: SeedField, qtbot: QtBot) -> None:
    told: list[int] = []
    field.changed.connect(lambda: told.append(field.seed()))
    field.selectAll()
    qtbot.keyClicks(field, "45")
    assert told == []
    qtbot.keyClick(field, Qt.Key.Key_Return)
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert told == [45]


def test_an_emptied_field_keeps_its_seed(field: SeedField, qtbot: QtBot) -> None:
    field.set_seed(45)
    field.selectAll()
    qtbot.keyClick(field, Qt.Key.Key_Delete)
    assert field.seed() == 45
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert field.text() == "45"


def test_a_dropped_picture_with_a_long_seed_can_be_made_again(
    studio: Studio, engine: FakeEngine, qtbot: QtBot, tmp_path: Path
) -> None:
    request = Request(prompt="a blue house", seed=LONG)
    image = plain_picture(request, 1.0)
    metadata.write_png(tmp_path / "a.png", image, make_result(request, image, 1.0, 6))
    drop(studio, tmp_path / "a.png")
    assert studio.window.options.seed.text() == str(LONG)
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: len(full_requests(engine)) == 1)
    assert full_requests(engine)[0].seed == LONG


def test_what_is_typed_and_not_yet_left_counts(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    options = studio.window.options
    studio.window.prompt.edit.setPlainText("a house")
    for field, text in ((options.seed, "45"), (options.steps, "5")):
        field.setFocus()
        field.selectAll()
        qtbot.keyClicks(field, text)
    qtbot.keyClick(options.steps, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: len(full_requests(engine)) == 1)
    request = full_requests(engine)[0]
    assert (request.seed, request.steps) == (45, 5)
    assert (request.width, request.guidance) == (None, None)  # what nobody touched is left to the model
