"""Contrast of both palettes (WCAG 2.2), and the icons."""

from __future__ import annotations

import pytest
from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication

from app.studio import Studio
from app.theme import icons
from app.theme.colours import DARK, LIGHT, Colours, component_colour, contrast
from app.theme.style import sheet
from app.theme.theme import theme

TEXT = [
    ("text", "window"),
    ("text", "panel"),
    ("text", "field"),
    ("text", "raised"),
    ("text", "raised_hover"),
    ("text", "accent_soft"),
    ("text", "danger_soft"),
    ("muted", "window"),
    ("muted", "panel"),
    ("muted", "field"),
    ("accent_text", "accent_soft"),
    ("accent_text", "panel"),
    ("on_accent", "accent"),
    ("on_accent", "accent_hover"),
    ("text", "line"),
]
# what is not text but must be seen: focus rings, dots, switches, component colours
SHAPES = [
    ("accent", "panel"),
    ("accent", "window"),
    ("good", "window"),
    ("busy", "window"),
    ("danger", "window"),
    ("encoder", "panel"),
    ("encoder_2", "panel"),
    ("encoder_3", "panel"),
    ("transformer", "panel"),
    ("transformer_2", "panel"),
    ("vae", "panel"),
    ("slots", "panel"),
    ("other", "panel"),
]


@pytest.mark.parametrize("colours", [DARK, LIGHT], ids=lambda colours: colours.name)
@pytest.mark.parametrize(("front", "back"), TEXT)
def test_text_is_legible(colours: Colours, front: str, back: str) -> None:
    assert contrast(getattr(colours, front), getattr(colours, back)) >= 4.5


@pytest.mark.parametrize("colours", [DARK, LIGHT], ids=lambda colours: colours.name)
@pytest.mark.parametrize(("front", "back"), SHAPES)
def test_shapes_are_visible(colours: Colours, front: str, back: str) -> None:
    assert contrast(getattr(colours, front), getattr(colours, back)) >= 3.0


def test_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)


def test_components_have_a_colour_each() -> None:
    names = (
        "text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "transformer_2", "vae", "slots", "scheduler",
    )  # fmt: skip
    assert len({component_colour(DARK, name) for name in names}) == len(names)
    assert component_colour(DARK, "unet") == component_colour(DARK, "transformer")


@pytest.mark.parametrize("name", sorted(icons.DRAWINGS))
def test_every_icon_draws_something(qapp: object, name: str) -> None:
    image = icons.icon(name, "#ff0000").pixmap(QSize(20, 20)).toImage()
    assert any(image.pixelColor(x, y).alpha() for x in range(image.width()) for y in range(image.height()))


def test_the_style_sheet_has_no_gaps(qapp: object) -> None:
    text = sheet(DARK, 13)
    assert "{c." not in text
    assert text.count("{") == text.count("}")


def test_the_theme_follows_the_system(qapp: QApplication, monkeypatch: pytest.MonkeyPatch) -> None:
    if not qapp.styleSheet():
        theme().install(qapp, "dark")
    theme().choose("system")
    hints = QGuiApplication.styleHints()
    try:
        for scheme, colours in ((Qt.ColorScheme.Light, LIGHT), (Qt.ColorScheme.Dark, DARK)):
            # the offscreen platform has no colour scheme of its own
            monkeypatch.setattr("app.theme.theme._system_scheme", lambda scheme=scheme: scheme)
            hints.colorSchemeChanged.emit(scheme)
            assert theme().colours is colours
            assert colours.panel in qapp.styleSheet()
    finally:
        theme().choose("dark")


def test_an_open_window_follows_the_system_until_a_theme_is_chosen(
    studio: Studio, qapp: QApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints = QGuiApplication.styleHints()

    def system_turns(scheme: Qt.ColorScheme) -> None:
        monkeypatch.setattr("app.theme.theme._system_scheme", lambda: scheme)
        hints.colorSchemeChanged.emit(scheme)

    def seen(colours: Colours) -> bool:
        image = studio.window.grab().toImage()
        return image.pixelColor(2, 2).name() == colours.window

    try:
        studio.window.header.theme_chosen.emit("system")
        system_turns(Qt.ColorScheme.Light)
        assert seen(LIGHT)
        system_turns(Qt.ColorScheme.Dark)
        assert seen(DARK)
        studio.window.header.theme_chosen.emit("light")
        system_turns(Qt.ColorScheme.Dark)
        assert seen(LIGHT)
        studio.window.header.theme_chosen.emit("system")
        assert seen(DARK)
    finally:
        theme().choose("dark")
