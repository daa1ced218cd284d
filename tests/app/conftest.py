"""What the window's tests share: a home of their own, a fake engine, a studio that is really shown."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import app  # noqa: F401  (before Qt: see app.pinning)
from core.models.catalogue import Match
from tests.app.fake_engine import FakeEngine

if TYPE_CHECKING:
    from app.models import Models
    from app.studio import Studio

VOCABULARY = {"colour": ["red", "blue", "orange"], "place": ["sea", "hills"], "sky": ["moon", "crescent moon"]}


class FakeModels:
    """Models without files."""

    def __init__(self) -> None:
        from core.models.info import Defaults

        self.defaults = Defaults(steps=8, draft_steps=3, width=128, height=128)
        self.vocabulary = VOCABULARY
        self.added: list[Path] = []
        self.fingerprints: dict[str, str] = {"starter": "0" * 64}
        self.used: list[str] = []

    def names(self) -> list[str]:
        return ["starter", *(path.name for path in self.added)]

    def use(self, name: str) -> None:
        self.used.append(name)

    def add(self, folder: Path) -> str:
        from core.models.folder import read_folder

        read_folder(folder)
        self.added.append(folder)
        return folder.name

    def match(self, name: str, fingerprint: str) -> Match:
        same = [other for other, known in self.fingerprints.items() if known == fingerprint]
        if same:
            return Match(name if name in same else same[0])
        return Match(name if name in self.fingerprints else "", same=False)


@pytest.fixture(autouse=True, scope="package")
def garbage() -> Iterator[None]:
    """As in the window: no other thread may collect widgets."""
    gc.disable()
    yield
    gc.collect()
    gc.enable()


@pytest.fixture(autouse=True)
def collect(garbage: None) -> Iterator[None]:
    from app.garbage import collect_due

    yield
    collect_due()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESIDENCY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def make_studio(qtbot: object, qapp: object) -> Iterator[Callable[..., Studio]]:
    """Shows studios, and ends them."""
    from app.bridge import EngineBridge
    from app.settings import Session
    from app.studio import Studio
    from app.theme.theme import theme
    from app.window import StudioWindow

    if not qapp.styleSheet():  # type: ignore[attr-defined]
        theme().install(qapp, "dark")  # type: ignore[arg-type]
    made: list[Studio] = []

    def make(engine: FakeEngine, session: Session | None = None, models: Models | None = None) -> Studio:
        window = StudioWindow()
        studio = Studio(window, EngineBridge(lambda: engine), session or Session(), models or FakeModels())
        made.append(studio)
        window.show()
        qtbot.waitExposed(window)  # type: ignore[attr-defined]
        studio.begin()
        qtbot.waitUntil(lambda: studio.state.stage == "ready", timeout=5000)  # type: ignore[attr-defined]
        return studio

    yield make
    for studio in made:
        studio.window.close()
        assert studio.bridge.close()
        studio.window.deleteLater()


@pytest.fixture
def studio(make_studio: Callable[..., Studio], engine: FakeEngine) -> Studio:
    return make_studio(engine)
