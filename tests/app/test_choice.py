"""Settings that come back bring the model that made the picture: by its content first, then by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from app.models import InstalledModels
from app.studio import Studio
from core import cli
from core.library import metadata
from core.messages import Request
from tests.app.conftest import FakeModels
from tests.app.fake_engine import FakeEngine, make_result, plain_picture
from tests.app.hands import CTRL, drop, full_requests, make_picture, press

OURS, OTHER = "0" * 64, "f" * 64


def picture_of(tmp_path: Path, model: str, fingerprint: str, prompt: str = "a blue house") -> Path:
    """A picture file that another model made."""
    request = Request(prompt=prompt, model=model, seed=5)
    image = plain_picture(request, 1.0)
    result = msgspec.structs.replace(make_result(request, image, 1.0, 6), fingerprint=fingerprint)
    path = tmp_path / f"{request.id}.png"
    metadata.write_png(path, image, result)
    return path


def know(studio: Studio, **fingerprints: str) -> FakeModels:
    models = cast(FakeModels, studio.models)
    for name, fingerprint in fingerprints.items():
        models.added.append(Path(name))
        models.fingerprints[name] = fingerprint
    return models


def settled(qtbot: QtBot, studio: Studio) -> None:
    qtbot.waitUntil(lambda: not studio.choice.looking)


def test_the_same_model_says_nothing(studio: Studio, engine: FakeEngine, qtbot: QtBot, tmp_path: Path) -> None:
    models = know(studio)
    used = len(models.used)
    drop(studio, picture_of(tmp_path, "starter", OURS))
    settled(qtbot, studio)
    assert studio.window.notice.sentence == ""
    assert len(models.used) == used  # it is not read or loaded once more


def test_a_known_model_is_used_again(studio: Studio, engine: FakeEngine, qtbot: QtBot, tmp_path: Path) -> None:
    know(studio, fox=OTHER)
    drop(studio, picture_of(tmp_path, "fox", OTHER))
    settled(qtbot, studio)
    assert studio.settings.model == "fox"
    assert studio.window.options.model.currentText() == "fox"
    assert studio.window.notice.sentence == ""
    qtbot.waitUntil(lambda: engine.warmed[-1] == "fox")


def test_the_same_content_under_another_name_is_found(studio: Studio, qtbot: QtBot, tmp_path: Path) -> None:
    know(studio, fox=OTHER)
    drop(studio, picture_of(tmp_path, "starter", OTHER))
    settled(qtbot, studio)
    assert studio.settings.model == "fox"
    assert studio.window.notice.sentence == ""


def test_the_same_name_with_other_content_is_told(studio: Studio, qtbot: QtBot, tmp_path: Path) -> None:
    know(studio, fox=OURS[:-1] + "1")
    drop(studio, picture_of(tmp_path, "fox", OTHER))
    settled(qtbot, studio)
    assert studio.settings.model == "fox"
    assert studio.window.notice.sentence.startswith("This picture was made with another fox than yours")


def test_what_is_missing_is_named(studio: Studio, qtbot: QtBot, tmp_path: Path) -> None:
    drop(studio, picture_of(tmp_path, "fox", OTHER))
    settled(qtbot, studio)
    assert studio.settings.model == "starter"
    sentence = studio.window.notice.sentence
    assert sentence.startswith("This picture was made with fox (FluxPipeline, model hash ffffffffff)")
    assert "open its folder" in sentence
    # it was about that picture: the next one that can be made again takes the sentence away
    drop(studio, picture_of(tmp_path, "starter", OURS))
    settled(qtbot, studio)
    assert studio.window.notice.sentence == ""


def test_a_click_on_the_history_looks_too(studio: Studio, engine: FakeEngine, qtbot: QtBot) -> None:
    make_picture(qtbot, studio, "a red house")
    know(studio, starter=OTHER)
    studio.window.history.chosen.emit(studio.state.history[0])
    settled(qtbot, studio)
    assert "another starter than yours" in studio.window.notice.sentence


def test_generate_waits_for_the_model_that_the_settings_belong_to(
    studio: Studio, engine: FakeEngine, qtbot: QtBot, tmp_path: Path
) -> None:
    know(studio, fox=OTHER)
    drop(studio, picture_of(tmp_path, "fox", OTHER))
    assert studio.choice.looking
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: len(full_requests(engine)) == 1)
    assert full_requests(engine)[0].model == "fox"
    qtbot.waitUntil(lambda: not studio.state.queue)
    press(qtbot, studio, Qt.Key.Key_Return, CTRL)
    qtbot.waitUntil(lambda: len(full_requests(engine)) == 2)


def test_a_model_chosen_by_hand_meanwhile_stays(studio: Studio, qtbot: QtBot, tmp_path: Path) -> None:
    know(studio, fox=OTHER, hen="a" * 64)
    drop(studio, picture_of(tmp_path, "fox", OTHER))
    studio.choice.choose("hen")
    qtbot.wait(50)
    assert studio.settings.model == "hen"


def model_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    return folder


def test_a_dropped_folder_is_used(studio: Studio, engine: FakeEngine, qtbot: QtBot, tmp_path: Path) -> None:
    drop(studio, model_folder(tmp_path / "fox"))
    qtbot.waitUntil(lambda: studio.settings.model == "fox")
    assert studio.window.options.model.currentText() == "fox"
    qtbot.waitUntil(lambda: engine.warmed[-1] == "fox")


def test_folders_and_files_are_opened_from_the_list(
    studio: Studio, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = studio.window.options.model
    folder = model_folder(tmp_path / "fox")
    asked: list[str] = []

    def ask_for_folder(*_: object) -> str:
        asked.append("folder")
        return str(folder)

    def ask_for_file(_parent: object, _title: str, _at: str, kinds: str) -> tuple[str, str]:
        asked.append(kinds)
        return "", ""

    monkeypatch.setattr("app.choice.QFileDialog.getExistingDirectory", ask_for_folder)
    monkeypatch.setattr("app.choice.QFileDialog.getOpenFileName", ask_for_file)
    for text in ("Open a model file…", "Open a model folder…"):
        shown.setCurrentIndex(shown.findText(text))
        shown.activated.emit(shown.findText(text))
    qtbot.waitUntil(lambda: studio.settings.model == "fox")
    assert asked == ["Models (*.gguf *.safetensors)", "folder"]


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.GGUF", "folder"])
def test_what_is_no_model_is_told(studio: Studio, qtbot: QtBot, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_bytes(b"nothing")
    drop(studio, path)
    qtbot.waitUntil(lambda: studio.window.notice.sentence != "")
    assert str(path) in studio.window.notice.sentence
    assert studio.settings.model == "starter"


def test_model_files_are_opened_in_the_window(
    make_studio: Callable[..., Studio], engine: FakeEngine, qtbot: QtBot, tmp_path: Path
) -> None:
    """Through the catalogue itself: a file for a whole model, and weights alone with the folder that they fit."""
    from core.resources import resource

    whole, alone = tmp_path / "whole.gguf", tmp_path / "alone.gguf"
    for words in (["-o", str(whole)], ["-o", str(alone), "--component", "transformer"]):
        assert cli.main(["convert", str(resource("starter", "model")), *words, "--format", "Q8_0"]) == 0
    studio = make_studio(engine, models=InstalledModels())
    for path, name in ((whole, "starter 2"), (alone, "alone")):  # the first one says what it is called
        drop(studio, path)
        qtbot.waitUntil(lambda name=name: studio.settings.model == name, timeout=20_000)  # type: ignore[misc]
        assert studio.window.options.model.currentText() == name
        assert studio.window.notice.sentence == ""
    assert studio.models.names() == ["starter", "starter 2", "alone"]
