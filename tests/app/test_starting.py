"""Starting from a picture, in the window: where it comes from, how far to go from it, and how to be rid of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from PySide6.QtCore import QEvent, QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication, QImage
from pytestqt.qtbot import QtBot

from app.settings import Session, Settings
from app.shown import Kind
from app.studio import Studio
from core.library import metadata
from core.messages import Init, Request
from tests.app.fake_engine import FakeEngine, make_result, plain_picture
from tests.app.hands import CTRL, drop, full_requests, kind, press, type_text


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture that says nothing of how it was made, 200 x 100."""
    file = tmp_path / "photo.jpg"
    Image.new("RGB", (200, 100), "teal").save(file)
    return file


def shown(studio: Studio) -> Init | None:
    start = studio.window.prompt.start
    assert start.choose.isHidden() == (start.init is not None)
    assert start.init == studio.settings.init
    return start.init


def test_a_picture_without_settings_is_started_from(
    studio: Studio, engine: FakeEngine, photo: Path, qtbot: QtBot
) -> None:
    assert shown(studio) is None
    drop(studio, photo)
    assert shown(studio) == Init(str(photo), 0.6)
    assert not studio.window.prompt.start._thumbnail.pixmap().isNull()
    assert (studio.window.options.width_field.text(), studio.window.options.height_field.text()) == ("208", "96")
    type_text(qtbot, studio, "a house")
    qtbot.waitUntil(lambda: kind(studio) is Kind.DRAFT)
    assert engine.submitted[-1].init == Init(str(photo), 0.6)
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: len(full_requests(engine)) == 1)
    wanted = full_requests(engine)[0]
    assert (wanted.init, wanted.width, wanted.height) == (Init(str(photo), 0.6), None, None)


def test_the_slider_says_how_far(studio: Studio, engine: FakeEngine, photo: Path, qtbot: QtBot) -> None:
    drop(studio, photo)
    studio.window.prompt.edit.setPlainText("a house")
    before = len(engine.submitted)
    studio.window.prompt.start.slider.setValue(25)
    assert shown(studio) == Init(str(photo), 0.25)
    qtbot.waitUntil(lambda: len(engine.submitted) > before)  # another draft
    assert engine.submitted[-1].init == Init(str(photo), 0.25)
    other = photo.with_name("other.png")
    Image.new("RGB", (64, 64)).save(other)
    drop(studio, other)
    assert shown(studio) == Init(str(other), 0.25)  # another picture, as far from it


def test_it_can_be_removed(studio: Studio, photo: Path, qtbot: QtBot) -> None:
    drop(studio, photo)
    qtbot.mouseClick(studio.window.prompt.start.remove, Qt.MouseButton.LeftButton)
    assert shown(studio) is None
    assert studio.settings.request().init is None
    assert studio.window.options.width_field.text() == "128"


def ours(tmp_path: Path, init: Init | None = None) -> Path:
    request = Request(prompt="a blue house", seed=99, steps=6, width=144, height=128, init=init)
    image = plain_picture(request, 1.0)
    metadata.write_png(tmp_path / "ours.png", image, make_result(request, image, 1.0, 6))
    return tmp_path / "ours.png"


def test_one_of_ours_gives_its_settings_back_but_on_the_row_itself_is_started_from(
    studio: Studio, tmp_path: Path
) -> None:
    file = ours(tmp_path)
    drop(studio, file)
    assert shown(studio) is None
    assert studio.settings.prompt == "a blue house"
    drop_on_row(studio, file)
    assert shown(studio) == Init(str(file), 0.6)


def drop_on_row(studio: Studio, file: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(file))])
    copy, button, keys = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    start = studio.window.prompt.start
    entering = QDragEnterEvent(QPointF(5, 5), copy, data, button, keys)
    start.dragEnterEvent(entering)
    assert entering.isAccepted()
    start.dropEvent(QDropEvent(QPointF(5, 5), copy, data, button, keys, QEvent.Type.Drop))


def test_a_file_over_the_prompt_is_left_to_the_window(studio: Studio, photo: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(photo))])
    copy, button, keys = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    entering = QDragEnterEvent(QPointF(5, 5), copy, data, button, keys)
    studio.window.prompt.edit.dragEnterEvent(entering)
    assert not entering.isAccepted()


def test_a_pasted_picture_is_kept_and_started_from(studio: Studio, home: Path, qtbot: QtBot) -> None:
    image = QImage(30, 20, QImage.Format.Format_RGB32)
    image.fill(0xFF00FF)
    QGuiApplication.clipboard().setImage(image)
    studio.window.prompt.edit.paste()
    init = shown(studio)
    assert init is not None
    assert home in Path(init.file).parents
    with Image.open(init.file) as kept:
        assert kept.size == (30, 20)
    assert studio.window.prompt.edit.toPlainText() == ""
    QGuiApplication.clipboard().setText("a house")
    studio.window.prompt.edit.paste()
    assert studio.window.prompt.edit.toPlainText() == "a house"


def test_a_pasted_file_is_started_from(studio: Studio, photo: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(photo))])
    data.setText(str(photo))
    QGuiApplication.clipboard().setMimeData(data)
    studio.window.prompt.edit.paste()
    assert shown(studio) == Init(str(photo), 0.6)


def test_what_is_no_picture_is_one_sentence(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    studio.starting.start_from(tmp_path / "notes.txt")
    assert "no picture" in studio.window.notice.sentence
    assert shown(studio) is None


def test_settings_come_back_with_the_picture_that_they_started_from(
    studio: Studio, tmp_path: Path, photo: Path
) -> None:
    drop(studio, ours(tmp_path, Init(str(photo), 0.4, "0" * 64)))
    # its file says only the name, which is nowhere to be found
    assert shown(studio) is None
    assert "photo.jpg, which is not here" in studio.window.notice.sentence
    request = Request(prompt="x", seed=1, init=Init(str(photo), 0.4, "0" * 64))
    image = plain_picture(request, 1.0)
    studio._choose(make_result(request, image, 1.0, 6))  # the history knows where it is
    assert shown(studio) == Init(str(photo), 0.4, "0" * 64)


def test_the_session_keeps_it_as_long_as_it_is_there(
    make_studio: Callable[..., Studio], photo: Path, tmp_path: Path
) -> None:
    settings = Settings(init=Init(str(photo), 0.3))
    assert shown(make_studio(FakeEngine(), Session(settings=settings))) == Init(str(photo), 0.3)
    gone = make_studio(FakeEngine(), Session(settings=Settings(init=Init(str(tmp_path / "gone.png"), 0.3))))
    assert shown(gone) is None
    assert "gone.png" in gone.window.notice.sentence
