"""The theme in force: follows the system unless the person chose one, and tells painted widgets when it changes."""

from __future__ import annotations

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QFont, QGuiApplication, QIcon
from PySide6.QtWidgets import QApplication

from app.theme import icons, style
from app.theme.colours import DARK, LIGHT, Colours

SYSTEM, DARK_NAME, LIGHT_NAME = "system", "dark", "light"
CHOICES = (SYSTEM, LIGHT_NAME, DARK_NAME)
_SCHEMES = {
    SYSTEM: Qt.ColorScheme.Unknown,
    DARK_NAME: Qt.ColorScheme.Dark,
    LIGHT_NAME: Qt.ColorScheme.Light,
}


class Theme(QObject):
    """The colours that everything is painted in. One for the application: see `theme()`."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.colours: Colours = DARK
        self.choice = SYSTEM
        self.text_size = 13
        self._application: QApplication | None = None
        self._icons: dict[tuple[str, str], QIcon] = {}

    def install(self, application: QApplication, choice: str = SYSTEM) -> None:
        """Dress the application, and follow the system from now on."""
        self._application = application
        self.text_size = style.text_size(application)
        application.setStyle("Fusion")
        # set before the signal is connected, so that the first frame is dressed once
        self.choice = choice if choice in CHOICES else SYSTEM
        hints = QGuiApplication.styleHints()
        if self.choice != SYSTEM:
            hints.setColorScheme(_SCHEMES[self.choice])
        hints.colorSchemeChanged.connect(self._apply)
        self._apply()

    def choose(self, choice: str) -> None:
        """Take light or dark, or follow the system again."""
        self.choice = choice if choice in CHOICES else SYSTEM
        QGuiApplication.styleHints().setColorScheme(_SCHEMES[self.choice])
        self._apply()

    def icon(self, name: str, colour: str | None = None) -> QIcon:
        """An icon in a colour of the theme; ordinary text's where none is given."""
        key = (name, colour or self.colours.text)
        if key not in self._icons:
            self._icons[key] = icons.icon(*key)
        return self._icons[key]

    def font(self, delta: int = 0, *, bold: bool = False) -> QFont:
        """The application's font, `delta` pixels larger than ordinary text."""
        font = QFont(QGuiApplication.font())
        font.setPixelSize(self.text_size + delta)
        font.setWeight(QFont.Weight.DemiBold if bold else QFont.Weight.Normal)
        return font

    def _apply(self) -> None:
        wanted = self._wanted()
        if self._application is None or (wanted is self.colours and self._application.styleSheet()):
            return
        self.colours = wanted
        self._application.setPalette(style.palette(wanted))
        self._application.setStyleSheet(style.sheet(wanted, self.text_size))
        self.changed.emit()

    def _wanted(self) -> Colours:
        if self.choice != SYSTEM:
            return LIGHT if self.choice == LIGHT_NAME else DARK
        # where the system says nothing, dark: pictures are judged better on it
        return LIGHT if _system_scheme() == Qt.ColorScheme.Light else DARK


def _system_scheme() -> Qt.ColorScheme:
    return QGuiApplication.styleHints().colorScheme()


_theme: Theme | None = None


def theme() -> Theme:
    """The application's theme."""
    global _theme
    if _theme is None:
        _theme = Theme()
    return _theme
