"""The window through its real widgets: typing, keys, clicks, drops."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QAccessible
from PySide6.QtWidgets import QAbstractSpinBox, QLineEdit, QScrollArea, QWidget
from pytestqt.qtbot import QtBot

from app.settings import Session, Settings, load_session
from app.shown import Kind
from app.studio import Studio
from app.widgets.chips import WordChip
from core.library import metadata
from core.library.queue import JobQueue, State
from core.messages import EngineStopped, ErrorKind, Failed, Request, SetAside
from tests.app.fake_engine import FakeEngine, make_result, plain_picture
from tests.app.hands import ALT, CTRL, drop, full_requests, kind, make_picture, press, put_caret, type_text

# -- typing and drafts ---------------------------------------------------------------------------------------


def test_the_prompt_has_the_focus_at_the_start(studio: Studio, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: studio.window.focusWidget() is studio.window.prompt.edit)


def test_a_draft_follows_the_typing(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a red house")
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)
    assert studio.state.picture is not None
    qtbot.waitUntil(lambda: studio.window.canvas.view.painted_id == studio.state.picture.id)  # type: ignore[union-attr]
    assert "Draft" in studio.window.canvas.caption
    assert studio.state.history == []
    first = engine.submitted[0]
    assert (first.prompt, first.draft, first.steps, first.seed) == ("a red house", True, 3, studio.settings.seed)


def test_letters_typed_fast_make_one_draft(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a red house")
    assert engine.submitted == []
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)
    assert [request.prompt for request in engine.submitted] == ["a red house"]


def test_a_newer_text_supersedes_the_draft_on_its_way(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    engine = FakeEngine(step_seconds=0.15)
    studio = make_studio(engine)
    type_text(qtbot, studio, "a red")
    qtbot.waitUntil(lambda: len(engine.submitted) == 1)
    type_text(qtbot, studio, " house")
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT, timeout=8000)
    assert engine.submitted[0].id in engine.cancelled
    assert studio.state.picture.result.prompt == "a red house"  # type: ignore[union-attr]


def test_without_live_mode_nothing_is_drafted(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    qtbot.mouseClick(studio.window.prompt.drafts.switch, Qt.MouseButton.LeftButton)
    type_text(qtbot, studio, "a red house")
    qtbot.wait(400)
    assert engine.submitted == []


def test_typing_works_while_the_engine_loads(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    engine = FakeEngine()
    studio = make_studio(engine)
    engine.say(EngineStopped(False, "x", True))
    type_text(qtbot, studio, "a red house")
    assert studio.window.prompt.edit.toPlainText() == "a red house"


def test_the_same_text_again_is_shown_from_memory(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a house")
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)
    first = studio.state.picture
    type_text(qtbot, studio, "s")
    qtbot.waitUntil(lambda: studio.state.picture is not first)
    count = len(engine.submitted)
    press(qtbot, studio, Qt.Key.Key_Backspace)
    assert studio.state.picture is not None
    assert studio.state.picture.id == first.id  # type: ignore[union-attr]
    assert len(engine.submitted) == count


# -- words ---------------------------------------------------------------------------------------------------


def test_the_alternatives_of_the_word_at_the_caret(studio: Studio, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a red house")
    assert "sea" in studio.window.prompt.words.words  # on no word: all that the model knows
    put_caret(studio, 3)
    assert studio.window.prompt.words.words == ("red", "blue", "orange")
    assert studio.window.prompt.words.chips["red"].isChecked()


def test_alternatives_get_their_pictures_while_nothing_else_runs(studio: Studio, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a red house")
    put_caret(studio, 3)
    chips = studio.window.prompt.words.chips
    qtbot.waitUntil(lambda: all(chip.has_image for chip in chips.values()))
    # looking ahead does not change what is on the canvas
    assert studio.state.picture.result.prompt == "a red house"  # type: ignore[union-attr]


def test_a_click_on_a_word_puts_it_in_and_shows_its_picture(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a red house")
    put_caret(studio, 3)
    qtbot.waitUntil(lambda: all(chip.has_image for chip in studio.window.prompt.words.chips.values()))
    count = len(engine.submitted)
    qtbot.mouseClick(studio.window.prompt.words.chips["orange"], Qt.MouseButton.LeftButton)
    assert studio.window.prompt.edit.toPlainText() == "an orange house"
    assert studio.state.picture.result.prompt == "an orange house"  # type: ignore[union-attr]
    assert len(engine.submitted) == count  # it was there already
    assert studio.window.prompt.words.chips["orange"].isChecked()


def test_alt_and_arrows_go_through_the_words(studio: Studio, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a red house")
    put_caret(studio, 3)
    press(qtbot, studio, Qt.Key.Key_Down, ALT)
    assert studio.window.prompt.edit.toPlainText() == "a blue house"
    press(qtbot, studio, Qt.Key.Key_Up, ALT)
    assert studio.window.prompt.edit.toPlainText() == "a red house"
    studio.window.prompt.edit.undo()
    assert studio.window.prompt.edit.toPlainText() == "a blue house"


def test_a_known_word_is_added_at_the_caret(studio: Studio, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a house")
    qtbot.mouseClick(studio.window.prompt.words.chips["sea"], Qt.MouseButton.LeftButton)
    assert studio.window.prompt.edit.toPlainText() == "a house sea"


# -- full pictures -------------------------------------------------------------------------------------------


def test_ctrl_enter_makes_the_full_picture(studio: Studio, engine: FakeEngine, qtbot: QtBot, home: Path) -> None:
    make_picture(qtbot, studio, "a red house by the sea")
    assert kind(studio) is Kind.FULL
    file = Path(studio.state.history[0].file)
    assert file.is_file()
    assert home in file.parents
    request = metadata.read_request(file)
    assert request is not None
    assert request.prompt == "a red house by the sea"
    assert studio.window.history.model.rowCount() == 1
    assert studio.window.prompt.edit.toPlainText() == "a red house by the sea"


def test_the_button_says_how_long_it_will_take(studio: Studio, qtbot: QtBot) -> None:
    assert studio.window.prompt.button.text() == "Generate"
    make_picture(qtbot, studio, "a red house")
    assert "·" in studio.window.prompt.button.text()


def test_an_empty_prompt_is_one_sentence(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "   ")
    qtbot.mouseClick(studio.window.prompt.button, Qt.MouseButton.LeftButton)
    assert studio.window.notice.sentence.startswith("Write in the prompt")
    assert full_requests(engine) == []


def test_several_presses_queue_several_pictures(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    engine = FakeEngine(step_seconds=0.05)
    studio = make_studio(engine)
    for prompt in ("first", "second", "third"):
        studio.window.prompt.edit.setPlainText(prompt)
        press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    assert studio.window.queue.isVisible()
    assert studio.window.prompt.stop.isVisible()
    qtbot.waitUntil(lambda: len(studio.state.history) == 3, timeout=10_000)
    assert [result.prompt for result in studio.state.history] == ["third", "second", "first"]
    assert not studio.window.queue.isVisible()
    assert not studio.window.prompt.stop.isVisible()


def test_escape_cancels_and_says_so_at_once(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    engine = FakeEngine(step_seconds=0.2)
    studio = make_studio(engine)
    studio.window.prompt.edit.setPlainText("a house")
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: studio.state.work is not None and studio.state.work.step > 0)
    press(qtbot, studio, Qt.Key.Key_Escape)
    assert "stopping" in studio.window.canvas.caption
    qtbot.waitUntil(lambda: not studio.state.queue)
    assert studio.state.history == []
    assert studio.window.prompt.edit.toPlainText() == "a house"


def test_ctrl_alt_enter_drops_what_waits(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    engine = FakeEngine(step_seconds=0.1)
    studio = make_studio(engine)
    studio.window.prompt.edit.setPlainText("a house")
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    press(qtbot, studio, Qt.Key.Key_Return, CTRL | ALT)
    qtbot.waitUntil(lambda: not studio.state.queue)


def test_a_seed_that_is_not_kept_changes_after_the_picture(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    press(qtbot, studio, Qt.Key.Key_L, CTRL)
    assert not studio.window.options.lock.isChecked()
    shown = studio.window.options.seed.seed()
    make_picture(qtbot, studio, "a house")
    assert full_requests(engine)[0].seed == shown
    assert studio.window.options.seed.seed() != shown


def test_settings_reach_the_request(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    options = studio.window.options
    options.seed.set_seed(2**32 - 1)
    options.steps.setValue(5)
    options.width_field.setValue(500)
    assert studio.window.notice.sentence == "Sizes go in steps of 16 pixels, so 500 became 496."
    assert options.height_field.value() == 128  # the model's own, now that the width is not
    options.show_more(True)
    options.guidance.setValue(3.5)
    options.negative.setPlainText("fog")
    make_picture(qtbot, studio, "a house")
    request = full_requests(engine)[0]
    assert (request.seed, request.steps, request.width, request.height) == (2**32 - 1, 5, 496, 128)
    assert (request.guidance, request.negative_prompt) == (3.5, "fog")


# -- history -------------------------------------------------------------------------------------------------


def test_a_click_on_the_history_brings_picture_and_settings_back(studio: Studio, qtbot: QtBot) -> None:
    studio.window.options.seed.set_seed(11)
    make_picture(qtbot, studio, "a red house")
    studio.window.options.seed.set_seed(12)
    make_picture(qtbot, studio, "a blue house")
    assert studio.window.history.model.index(0).data() == "red → blue"
    view = studio.window.history.view
    where = view.visualRect(studio.window.history.model.index(1)).center()
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=where)
    assert studio.window.prompt.edit.toPlainText() == "a red house"
    assert studio.window.options.seed.seed() == 11
    assert studio.state.picture.result.prompt == "a red house"  # type: ignore[union-attr]
    # what was there before can be had back
    studio.window.prompt.edit.undo()
    assert studio.window.prompt.edit.toPlainText() == "a blue house"


def test_looking_at_an_older_picture_is_not_drafted_over(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "a red house")
    make_picture(qtbot, studio, "a blue house")
    type_text(qtbot, studio, " ")  # a draft, so that it is known to be quick
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)
    studio.window.history.chosen.emit(studio.state.history[1])
    put_caret(studio, 3)  # on a word, so that its alternatives and itself are drafted ahead
    qtbot.waitUntil(lambda: all(chip.has_image for chip in studio.window.prompt.words.chips.values()))
    assert kind(studio) is Kind.FULL
    assert studio.state.picture.result.prompt == "a red house"  # type: ignore[union-attr]


def test_arrows_and_delete_in_the_history(studio: Studio, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "a red house")
    make_picture(qtbot, studio, "a blue house")
    view = studio.window.history.view
    press(qtbot, studio, Qt.Key.Key_H, CTRL)
    qtbot.waitUntil(view.hasFocus)
    qtbot.keyClick(view, Qt.Key.Key_Right)
    assert studio.window.prompt.edit.toPlainText() == "a red house"
    file = Path(studio.state.history[1].file)
    qtbot.keyClick(view, Qt.Key.Key_Delete)
    assert [result.prompt for result in studio.state.history] == ["a blue house"]
    assert file.is_file()  # only the history forgets it


def test_a_picture_that_is_gone_is_told(studio: Studio, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "a red house")
    Path(studio.state.history[0].file).unlink()
    studio.window.history.opened.emit(studio.state.history[0])
    assert "moved or deleted" in studio.window.notice.sentence


# -- dropped files -------------------------------------------------------------------------------------------


def test_a_dropped_picture_gives_its_settings_back(studio: Studio, qtbot: QtBot, tmp_path: Path) -> None:
    request = Request(prompt="a blue house", negative_prompt="fog", seed=99, steps=6, width=144, height=128)
    image = plain_picture(request, 1.0)
    metadata.write_png(tmp_path / "a.png", image, make_result(request, image, 1.0, 6))
    type_text(qtbot, studio, "something")
    drop(studio, tmp_path / "a.png")
    assert studio.window.prompt.edit.toPlainText() == "a blue house"
    wanted = studio.settings.request()
    assert (wanted.prompt, wanted.negative_prompt, wanted.seed) == ("a blue house", "fog", 99)
    assert (wanted.steps, wanted.width, wanted.height) == (6, 144, 128)
    assert kind(studio) is Kind.FULL


def test_a_picture_of_another_program(studio: Studio, tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    text = "a castle\nNegative prompt: fog\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 512x768"
    info.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png", pnginfo=info)
    drop(studio, tmp_path / "b.png")
    assert studio.window.prompt.edit.toPlainText() == "a castle"
    assert (studio.settings.seed, studio.settings.steps, studio.settings.height) == (5, 20, 768)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_without_settings_is_one_sentence(studio: Studio, tmp_path: Path, content: bytes, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "kept")
    (tmp_path / "c.png").write_bytes(content)
    drop(studio, tmp_path / "c.png")
    assert "c.png carries no settings" in studio.window.notice.sentence
    assert studio.window.prompt.edit.toPlainText() == "kept"


# -- trouble -------------------------------------------------------------------------------------------------


def test_a_failure_is_one_sentence_with_a_way_on(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    engine = FakeEngine()
    engine.fail = lambda request: None if request.draft else Failed(request.id, ErrorKind.INTERNAL, "It broke.", "...")
    studio = make_studio(engine)
    studio.window.prompt.edit.setPlainText("a house")
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: studio.window.notice.sentence == "It broke.")
    assert studio.state.queue[0].state is State.FAILED
    assert studio.window.prompt.edit.toPlainText() == "a house"
    engine.fail = lambda request: None
    studio.window.notice.acted.emit(studio.state.notice.action[1])  # type: ignore[union-attr,index]
    qtbot.waitUntil(lambda: len(studio.state.history) == 1)
    assert studio.window.notice.sentence == ""


def test_a_job_set_aside_can_be_removed(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    request = Request(prompt="a deadly house", out="x.png")
    studio.state.jobs_loaded([*studio.state.queue])
    studio._refresh(studio.state.submitted(request))
    engine.say(SetAside(request.id, "The engine stopped 2 times while making this picture; it was set aside."))
    qtbot.waitUntil(lambda: studio.state.queue[0].state is State.SET_ASIDE)
    studio.window.queue.removed.emit(request.id)
    assert not studio.window.queue.isVisible()


def test_a_stopped_engine_can_be_started_again(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    engine.say(EngineStopped(False, "the engine ended with exit code 1", False))
    qtbot.waitUntil(lambda: studio.window.header.status == "Engine stopped")
    assert "exit code 1" in studio.window.notice.sentence
    studio.window.notice.acted.emit("restart")
    qtbot.waitUntil(lambda: studio.window.header.status.startswith("Ready"))
    assert engine.restarts == 1
    assert studio.window.notice.sentence == ""


def test_a_folder_that_is_no_model_is_one_sentence(studio: Studio, qtbot: QtBot, tmp_path: Path) -> None:
    studio.choice.add(tmp_path)
    qtbot.waitUntil(lambda: "model_index.json" in studio.window.notice.sentence)
    assert studio.settings.model == "starter"


# -- the end -------------------------------------------------------------------------------------------------


def test_the_session_comes_back(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    studio = make_studio(FakeEngine())
    type_text(qtbot, studio, "a red house")
    studio.window.options.steps.setValue(5)
    studio.window.close()
    session = load_session()
    assert session.settings.prompt == "a red house"
    again = make_studio(FakeEngine(), session)
    assert again.window.prompt.edit.toPlainText() == "a red house"
    assert again.window.options.steps.value() == 5


def test_jobs_of_an_earlier_session_are_shown(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    jobs = JobQueue(None)
    request = Request(prompt="left over", out="a.png")
    jobs.add(request)
    jobs.set_state(request.id, State.FAILED, "no space left")
    studio = make_studio(FakeEngine(jobs))
    qtbot.waitUntil(studio.window.queue.isVisible)
    assert studio.state.queue[0].reason == "no space left"


def test_closing_while_busy_is_quick(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    engine = FakeEngine(step_seconds=0.3)
    studio = make_studio(engine, Session(settings=Settings(prompt="a house")))
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: studio.state.queue.running is not None)
    begin = time.monotonic()
    studio.window.close()
    assert not studio.window.isVisible()
    assert time.monotonic() - begin < 0.5
    assert studio.bridge.close()
    assert time.monotonic() - begin < 3


# -- for everyone --------------------------------------------------------------------------------------------


def test_every_control_has_an_accessible_name(studio: Studio, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "a red house")
    put_caret(studio, 3)
    studio.window.options.show_more(True)
    unnamed = []
    for widget in studio.window.findChildren(QWidget):
        inner = isinstance(widget, QLineEdit) and isinstance(widget.parentWidget(), QAbstractSpinBox)
        if widget.focusPolicy() == Qt.FocusPolicy.NoFocus or inner or not widget.isVisibleTo(studio.window):
            continue
        interface = QAccessible.queryAccessibleInterface(widget)
        if not interface.text(QAccessible.Text.Name):
            unnamed.append(f"{type(widget).__name__} {widget.objectName()}")
    assert unnamed == []


def test_tab_reaches_every_control(studio: Studio, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "a red house")
    window = studio.window
    reached = set()
    window.prompt.edit.setFocus()
    for _ in range(80):
        focus = window.focusWidget()
        reached.add(focus)
        qtbot.keyClick(focus, Qt.Key.Key_Tab)
    options = window.options
    wanted = [
        window.prompt.edit, window.prompt.drafts.switch, window.prompt.button, options.model, options.width_field,
        options.height_field, options.shapes, options.seed, options.lock, options.dice, options.steps, options.more,
        window.history.search, window.history.view, window.header.themes, window.header.help,
    ]  # fmt: skip
    assert [widget.accessibleName() for widget in wanted if widget not in reached] == []
    assert any(isinstance(widget, WordChip) for widget in reached)


@pytest.mark.parametrize("size", [(640, 400), (853, 533), (1280, 800), (1920, 1080)])
def test_nothing_is_cut_off_at_any_size(studio: Studio, qtbot: QtBot, size: tuple[int, int]) -> None:
    window = studio.window
    window.resize(*size)
    qtbot.wait(20)
    assert (window.width(), window.height()) == size
    for widget in (window.prompt.button, window.canvas, window.history, window.header, window.prompt.drafts.switch):
        corner = widget.mapTo(window, QPoint(widget.width(), widget.height()))
        assert corner.x() <= size[0]
        assert corner.y() <= size[1]
    window.options.show_more(True)
    qtbot.wait(20)
    for area in window.findChildren(QScrollArea):
        assert area.widget() is None or area.widget().width() <= area.viewport().width()


def test_arrows_go_from_word_to_word(studio: Studio, qtbot: QtBot) -> None:
    type_text(qtbot, studio, "a red house")
    put_caret(studio, 3)
    chips = studio.window.prompt.words.chips
    press(qtbot, studio, Qt.Key.Key_Tab)
    qtbot.waitUntil(chips["red"].hasFocus)
    qtbot.keyClick(chips["red"], Qt.Key.Key_Right)
    qtbot.waitUntil(chips["blue"].hasFocus)
    qtbot.keyClick(chips["blue"], Qt.Key.Key_Return)
    assert studio.window.prompt.edit.toPlainText() == "a blue house"
    qtbot.waitUntil(studio.window.prompt.edit.hasFocus)


def test_a_model_that_is_gone_is_told(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    studio = make_studio(FakeEngine(), Session(settings=Settings(model="gone")))
    assert studio.window.notice.sentence.startswith("gone is not among your models")
    assert studio.settings.model == "starter"


def test_a_prompt_left_behind_is_drafted_at_the_next_start(make_studio: Callable[..., Studio], qtbot: QtBot) -> None:
    studio = make_studio(FakeEngine(), Session(settings=Settings(prompt="a red house")))
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)


def test_endless_words_do_not_break_the_window(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    window = studio.window
    window.resize(1280, 800)
    endless = "x" * 3000
    window.prompt.edit.setPlainText(endless)
    studio.say(f"/{endless} cannot be written to.")
    engine.fail = lambda request: None if request.draft else Failed(request.id, ErrorKind.USER, f"{endless}!")
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: bool(studio.state.queue) and studio.state.queue[0].state is State.FAILED)
    qtbot.wait(50)
    assert (window.width(), window.height()) == (1280, 800)
    assert window.minimumSizeHint().width() <= 1280
    assert window.queue.width() <= window.options.width()


def test_prompts_are_never_markup(studio: Studio, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "<b>a house</b>")
    tip = studio.window.history.model.index(0).data(Qt.ItemDataRole.ToolTipRole)
    assert "&lt;b&gt;a house" in tip


def test_both_themes_can_be_chosen(studio: Studio, qtbot: QtBot) -> None:
    from app.theme.theme import theme

    for name in ("light", "dark"):
        studio.window.header.theme_chosen.emit(name)
        assert theme().colours.name == name
        studio.save()
        qtbot.waitUntil(lambda name=name: load_session().theme == name)
