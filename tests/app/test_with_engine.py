"""The window with the real engine in its own process and the starter model."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.bridge import EngineBridge
from app.models import InstalledModels
from app.settings import Session
from app.shown import Kind, Stage
from app.studio import Studio
from app.theme.theme import theme
from app.window import StudioWindow
from core.library import metadata
from core.messages import Event, Preview

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the engine's packages"),
]
PATIENCE_MS = 120_000  # the first start imports torch and the pipelines, on a shared machine


def test_a_prompt_becomes_a_draft_and_then_a_file(qtbot: QtBot, qapp: object, home: Path) -> None:
    if not qapp.styleSheet():  # type: ignore[attr-defined]
        theme().install(qapp, "dark")  # type: ignore[arg-type]
    window = StudioWindow()
    bridge = EngineBridge()
    studio = Studio(window, bridge, Session(), InstalledModels())
    previews: list[Preview] = []

    def look(events: list[Event]) -> None:
        previews.extend(event for event in events if isinstance(event, Preview))

    bridge.events.connect(look)
    try:
        window.show()
        qtbot.waitExposed(window)
        studio.begin()
        assert window.prompt.words.isVisible()  # the starter's own words
        qtbot.keyClicks(window.prompt.edit, "a red house by the sea at sunset")
        qtbot.waitUntil(
            lambda: studio.state.picture is not None and studio.state.picture.kind is Kind.DRAFT, timeout=PATIENCE_MS
        )
        assert studio.state.stage is Stage.READY
        qtbot.keyClick(window.prompt.edit, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
        request_id = studio.state.queue[0].request.id
        qtbot.waitUntil(lambda: bool(studio.state.history), timeout=PATIENCE_MS)
        assert any(preview.id == request_id for preview in previews)
        result = studio.state.history[0]
        file = Path(result.file)
        assert home in file.parents
        assert metadata.read_result(file) == result
        qtbot.waitUntil(lambda: window.canvas.view.painted_id == request_id)
        assert "·" in window.prompt.button.text()
        assert studio.state.components["transformer"].bytes > 0
        assert window.precision.isVisible()
    finally:
        begin = time.monotonic()
        window.close()
        assert bridge.close()
        assert time.monotonic() - begin < 15
