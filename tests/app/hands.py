"""What a person does with the window: typing, pressing keys, dropping files; and what they see."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QEvent, QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent
from pytestqt.qtbot import QtBot

from app.shown import Kind
from app.studio import Studio
from core.messages import Request
from tests.app.fake_engine import FakeEngine

NONE = Qt.KeyboardModifier.NoModifier
CTRL = Qt.KeyboardModifier.ControlModifier
ALT = Qt.KeyboardModifier.AltModifier


def type_text(qtbot: QtBot, studio: Studio, text: str) -> None:
    qtbot.keyClicks(studio.window.prompt.edit, text)


def press(qtbot: QtBot, studio: Studio, key: Qt.Key, modifiers: Qt.KeyboardModifier = NONE) -> None:
    qtbot.keyClick(studio.window.prompt.edit, key, modifiers)


def make_picture(qtbot: QtBot, studio: Studio, prompt: str) -> None:
    before = len(studio.state.history)
    studio.window.prompt.edit.setPlainText(prompt)
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: len(studio.state.history) == before + 1 and not studio.state.queue)


def kind(studio: Studio) -> Kind | None:
    return studio.state.picture.kind if studio.state.picture is not None else None


def full_requests(engine: FakeEngine) -> list[Request]:
    return [request for request in engine.submitted if not request.draft]


def drop(studio: Studio, file: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(file))])
    copy, left = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
    studio.window.dropEvent(QDropEvent(QPointF(10, 10), copy, data, left, NONE, QEvent.Type.Drop))


def put_caret(studio: Studio, position: int) -> None:
    cursor = studio.window.prompt.edit.textCursor()
    cursor.setPosition(position)
    studio.window.prompt.edit.setTextCursor(cursor)
