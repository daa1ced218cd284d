"""The history: pages as one scrolls, and the search."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.shelf import PAGE, Page
from app.studio import Studio
from core.library.index import Library
from core.messages import Request, Result
from tests.app.fake_engine import FakeEngine, make_result, plain_picture
from tests.app.hands import CTRL, make_picture, press

MakeStudio = Callable[..., Studio]
COUNT = 2 * PAGE + 30
_IMAGE = plain_picture(Request(prompt="a"), 1.0)


def old_result(number: int) -> Result:
    """The result number `number` of an earlier session: every tenth is of a castle."""
    prompt = f"a {'castle' if number % 10 == 0 else 'house'} of year {number}"
    result = make_result(Request(id=f"{number:012x}", prompt=prompt, out=f"/{number}.png"), _IMAGE, 1.0, 8)
    return msgspec.structs.replace(result, created=f"2020-01-01T00:{number // 60:02}:{number % 60:02}")


@pytest.fixture
def filled(home: Path) -> None:
    """A library with more results than are shown at once."""
    library = Library()
    for number in range(COUNT):
        library.add(old_result(number))
    library.close()


@pytest.fixture
def studio(filled: None, make_studio: MakeStudio, engine: FakeEngine, qtbot: QtBot) -> Studio:
    studio = make_studio(engine)
    qtbot.waitUntil(lambda: rows(studio) == PAGE)
    return studio


def rows(studio: Studio) -> int:
    return studio.window.history.model.rowCount()


def shown(studio: Studio) -> list[str]:
    model = studio.window.history.model
    return [result.prompt for row in range(rows(studio)) if (result := model.index(row).data(Qt.ItemDataRole.UserRole))]


def scroll_to_the_end(studio: Studio) -> None:
    bar = studio.window.history.view.horizontalScrollBar()
    bar.setValue(bar.maximum())


def search(qtbot: QtBot, studio: Studio, text: str) -> None:
    press(qtbot, studio, Qt.Key.Key_F, CTRL)
    qtbot.waitUntil(studio.window.history.search.hasFocus)
    qtbot.keyClicks(studio.window.history.search, text)


def test_more_is_loaded_as_one_scrolls_until_all_is_there(studio: Studio, qtbot: QtBot) -> None:
    view = studio.window.history.view
    scroll_to_the_end(studio)
    qtbot.waitUntil(lambda: rows(studio) == 2 * PAGE)
    # what was looked at stays where it was
    first = view.indexAt(view.viewport().rect().center()).row()
    assert PAGE / 2 < first < PAGE
    scroll_to_the_end(studio)
    qtbot.waitUntil(lambda: rows(studio) == COUNT)
    scroll_to_the_end(studio)
    qtbot.wait(50)
    assert shown(studio) == [old_result(number).prompt for number in reversed(range(COUNT))]


def test_what_is_made_or_removed_meanwhile_leaves_no_gap_and_no_double(studio: Studio, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "a new house")
    studio.window.history.removed.emit(studio.state.history[5])
    studio.window.history.removed.emit(studio.state.history[5])
    scroll_to_the_end(studio)
    qtbot.waitUntil(lambda: rows(studio) > PAGE)
    scroll_to_the_end(studio)
    qtbot.waitUntil(lambda: rows(studio) == COUNT - 1)
    gone = {COUNT - 5, COUNT - 6}
    old = [old_result(number).prompt for number in reversed(range(COUNT)) if number not in gone]
    assert shown(studio) == ["a new house", *old]


def test_the_last_label_of_a_page_learns_what_came_before_it(studio: Studio, qtbot: QtBot) -> None:
    last = studio.window.history.model.index(PAGE - 1)
    assert last.data() == "castle of year 130"  # nothing is known of the one before
    scroll_to_the_end(studio)
    qtbot.waitUntil(lambda: rows(studio) == 2 * PAGE)
    assert studio.window.history.model.index(PAGE - 1).data() == "house → castle, 129 → 130"


def test_search_finds_by_words_and_escape_clears_it(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    search(qtbot, studio, "cas")
    qtbot.waitUntil(lambda: rows(studio) == COUNT // 10)
    assert shown(studio)[0] == "a castle of year 220"
    assert all("castle" in prompt for prompt in shown(studio))
    # Esc belongs to the field; what is being made goes on
    studio.window.prompt.edit.setPlainText("a boat")
    engine.step_seconds = 0.1
    studio.generate()
    qtbot.keyClick(studio.window.history.search, Qt.Key.Key_Escape)
    assert studio.window.history.search.text() == ""
    assert rows(studio) == PAGE
    assert studio.state.queue.busy
    # and where there is nothing to clear, it cancels as everywhere
    qtbot.keyClick(studio.window.history.search, Qt.Key.Key_Escape)
    qtbot.waitUntil(lambda: not studio.state.queue.busy)
    assert studio.state.history[0].prompt != "a boat"


def test_letters_typed_fast_are_one_search(studio: Studio, qtbot: QtBot) -> None:
    asked: list[str] = []
    studio.window.history.searched.connect(asked.append)
    search(qtbot, studio, "castle of")
    qtbot.waitUntil(lambda: rows(studio) == COUNT // 10)
    assert asked == ["castle of"]


def test_a_search_that_finds_many_comes_in_pages_too(studio: Studio, qtbot: QtBot) -> None:
    search(qtbot, studio, "house")
    qtbot.waitUntil(lambda: all("house" in prompt for prompt in shown(studio)))
    assert rows(studio) == PAGE
    scroll_to_the_end(studio)
    qtbot.waitUntil(lambda: rows(studio) == 2 * PAGE)
    scroll_to_the_end(studio)
    qtbot.waitUntil(lambda: rows(studio) == COUNT - COUNT // 10)


def test_nothing_found_is_said(studio: Studio, qtbot: QtBot) -> None:
    search(qtbot, studio, "zeppelin")
    qtbot.waitUntil(lambda: rows(studio) == 0)
    assert studio.window.history.message == "No prompt holds “zeppelin”."


def test_from_the_search_to_what_it_found_by_the_keys(studio: Studio, qtbot: QtBot) -> None:
    search(qtbot, studio, "castle")
    qtbot.waitUntil(lambda: rows(studio) == COUNT // 10)
    view = studio.window.history.view
    qtbot.keyClick(studio.window.history.search, Qt.Key.Key_Return)
    qtbot.waitUntil(view.hasFocus)
    assert studio.window.prompt.edit.toPlainText() == "a castle of year 220"
    qtbot.keyClick(view, Qt.Key.Key_Right)
    assert studio.window.prompt.edit.toPlainText() == "a castle of year 210"


def test_a_new_picture_that_is_searched_for_joins_what_was_found(studio: Studio, qtbot: QtBot) -> None:
    search(qtbot, studio, "castle")
    qtbot.waitUntil(lambda: rows(studio) == COUNT // 10)
    make_picture(qtbot, studio, "a castle by the sea")
    qtbot.waitUntil(lambda: rows(studio) == COUNT // 10 + 1)
    assert shown(studio)[0] == "a castle by the sea"
    make_picture(qtbot, studio, "a boat")
    qtbot.wait(50)
    assert rows(studio) == COUNT // 10 + 1
    studio.window.history.removed.emit(studio.state.shelves.shown.results[0])
    assert shown(studio)[0] == "a castle of year 220"


def test_thousands_of_results_do_not_hold_the_window_up(studio: Studio, qtbot: QtBot) -> None:
    many = [old_result(number) for number in reversed(range(COUNT, COUNT + 3400))]
    studio._page_loaded(Page("", COUNT, many))
    qtbot.wait(20)
    begin = time.process_time()
    studio._page_loaded(Page("", COUNT, [old_result(COUNT + 3401)]))
    qtbot.wait(1)  # the view lays itself out
    # a tenth of a second allows for a slow machine; laying out each of them alone takes several times that
    assert time.process_time() - begin < 0.1


def test_there_is_nothing_to_search_before_the_first_picture(make_studio: MakeStudio, qtbot: QtBot) -> None:
    studio = make_studio(FakeEngine())
    assert not studio.window.history.search.isVisible()
    assert studio.window.history.message == "Your pictures will be kept here."
    make_picture(qtbot, studio, "a red house")
    assert studio.window.history.search.isVisible()
