"""Tiny models, made once a session and shared by every test that asks for a family."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny random model."""
    from tests.tiny_models import make  # now: an engine's thread may import the same libraries a moment later

    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = make(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """User folders of this test alone."""
    monkeypatch.setenv("RESIDENCY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module", autouse=True)
def cards_end() -> Iterator[None]:
    """The threads of emulated cards end when their module is done, whoever still holds one."""
    yield
    cards = sys.modules.get("tests.cards")  # a module without cards needs no torch
    if cards is not None:
        cards.close_all()
