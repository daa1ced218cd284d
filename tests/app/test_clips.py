"""Clips in the window: a clip is shown by its first frame, and its settings come back from its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from pytestqt.qtbot import QtBot

from app import desktop
from app.bridge import EngineBridge
from app.panels.canvas import to_image
from app.settings import Settings
from app.shown import Kind, Picture
from app.studio import Studio
from app.widgets.thumbnails import Thumbnails
from core.generation.video import write_mp4
from core.messages import Request, Result
from tests.app.fake_engine import FakeEngine, make_result
from tests.app.hands import drop

RED, BLUE = (250, 10, 10), (10, 10, 250)


@pytest.fixture
def clip(tmp_path: Path) -> Result:
    """A finished clip that begins red and goes on in blue."""
    import msgspec

    path = tmp_path / "a.mp4"
    frames = [Image.new("RGB", (96, 64), colour) for colour in (RED, BLUE, BLUE, BLUE, BLUE)]
    request = Request(prompt="a red house", seed=11, steps=4, width=96, height=64, out=str(path))
    result = msgspec.structs.replace(make_result(request, frames[0], 1.0, 4), frames=5, fps=16.0)
    write_mp4(path, frames, 16.0, result)
    return result


def test_a_clip_is_shown_by_its_first_frame(clip: Result, qtbot: QtBot) -> None:
    image = to_image(Picture(clip.id, Kind.FULL, 96, 64, file=clip.file, result=clip))
    assert (image.width(), image.height()) == (96, 64)
    assert image.pixelColor(48, 32).getRgb()[:3] == RED
    thumbnails = Thumbnails(32)
    with qtbot.waitSignal(thumbnails.ready):
        assert thumbnails.get(clip.file) is None
    small = thumbnails.get(clip.file)
    assert small is not None
    assert (small.width(), small.height()) == (32, 32)
    assert small.toImage().pixelColor(16, 16).getRgb()[:3] == RED
    thumbnails.close()


def test_a_clip_that_is_damaged_or_gone_is_no_picture(clip: Result, qtbot: QtBot) -> None:
    path = Path(clip.file)
    path.write_bytes(path.read_bytes()[:2000])
    shown = Picture(clip.id, Kind.FULL, 96, 64, file=clip.file, result=clip)
    assert to_image(shown).isNull()
    path.unlink()
    assert to_image(shown).isNull()
    thumbnails = Thumbnails(32)
    with qtbot.waitSignal(thumbnails.ready):
        thumbnails.get(clip.file)
    small = thumbnails.get(clip.file)
    assert small is not None
    assert small.isNull()
    thumbnails.close()


def test_a_dropped_clip_gives_its_settings(studio: Studio, clip: Result, qtbot: QtBot) -> None:
    drop(studio, Path(clip.file))
    qtbot.waitUntil(lambda: studio.settings.prompt == "a red house")
    assert (studio.settings.frames, studio.settings.seed) == (5, 11)
    assert studio.settings.request().frames == 5
    assert studio.settings.request(draft=True).frames is None
    assert studio.state.picture is not None
    assert studio.state.picture.file == clip.file
    qtbot.waitUntil(lambda: "5 frames" in studio.window.canvas.caption)


def test_a_clips_first_frame_can_be_copied(clip: Result, qtbot: QtBot) -> None:
    from PySide6.QtGui import QGuiApplication

    desktop.copy_picture(Path(clip.file))
    assert QGuiApplication.clipboard().image().pixelColor(1, 1).getRgb()[:3] == RED


@pytest.mark.parametrize(
    ("family", "frames", "suffix", "asked"),
    [("WanPipeline", None, ".mp4", None), ("WanPipeline", 1, ".png", 1), ("FluxPipeline", 81, ".png", None)],
)
def test_the_file_is_named_for_what_the_model_makes(
    family: str, frames: int | None, suffix: str, asked: int | None, tmp_path: Path, qtbot: QtBot
) -> None:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": family}))
    (folder / "vae" / "config.json").write_text(json.dumps({"scale_factor_temporal": 4}))
    engine = FakeEngine()
    bridge = EngineBridge(lambda: engine)
    bridge.start()
    bridge.submit(Settings(prompt="a red house", model=str(folder), frames=frames).request())
    qtbot.waitUntil(lambda: len(engine.submitted) == 1)
    assert Path(engine.submitted[0].out).suffix == suffix
    assert engine.submitted[0].frames == asked
    assert bridge.close()
