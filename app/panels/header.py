"""The top of the window: the name, how the engine is, theme and help."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QAction, QActionGroup, QColor, QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QMenu, QPushButton, QSizePolicy, QToolButton, QWidget

from app import formatting
from app.shown import Stage
from app.state import StudioState
from app.theme.theme import CHOICES, theme
from app.widgets.controls import IconButton, field_height, label
from app.widgets.mark import Mark

SHORTCUTS = (
    ("Ctrl+Enter", "make the full picture"),
    ("Esc, Ctrl+Alt+Enter", "cancel"),
    ("Alt+Up, Alt+Down", "another word at the cursor"),
    ("Ctrl+D", "make a draft now"),
    ("Ctrl+Shift+D", "draft while typing"),
    ("Ctrl+L", "keep the seed"),
    ("Ctrl+R", "another seed"),
    ("Ctrl+E", "go to the prompt"),
    ("Ctrl+H", "go to the history"),
    ("Ctrl+M", "go to the memory chart, or fold it"),
    ("Ctrl+F", "search the history"),
    ("Ctrl+O", "open a picture's settings"),
    ("Ctrl+Shift+C", "copy the picture"),
)
_STAGES = {
    Stage.STARTING: "Engine starting",
    Stage.LOADING: "Loading the model",
    Stage.READY: "Ready",
    Stage.RESTARTING: "Engine restarting",
    Stage.STOPPED: "Engine stopped",
}
_THEMES = {"system": "Follow the system", "light": "Light", "dark": "Dark"}


class _Dot(QWidget):
    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage.STARTING
        self.setFixedSize(QSize(8, 8))
        theme().changed.connect(self.update)

    def paintEvent(self, event: QPaintEvent) -> None:
        colours = theme().colours
        colour = {Stage.READY: colours.good, Stage.STOPPED: colours.danger}.get(self.stage, colours.busy)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colour))
        painter.drawEllipse(QRectF(0, 0, 8, 8))


class Header(QWidget):
    """Says how the engine is, in the corner, and never in the way."""

    start_again = Signal()
    theme_chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(field_height() + 4)
        self._dot = _Dot()
        self._status = label("", "muted")
        self._again = QPushButton("Start again")
        self._again.setAccessibleName("Start the engine again")
        self._again.setProperty("role", "bare")  # it lies on the window itself
        self._again.clicked.connect(self.start_again)
        self.themes = IconButton("moon", "Theme", "Light or dark")
        self.themes.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.themes.setMenu(self._theme_menu())
        self.help = IconButton("help", "Keyboard shortcuts")
        self.help.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.help.setMenu(self._help_menu())
        layout = QHBoxLayout(self)
        layout.setContentsMargins(4, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(Mark())
        layout.addWidget(label("Residency", "wordmark"))
        layout.addStretch(1)
        layout.addWidget(self._dot)
        layout.addWidget(self._status)
        layout.addWidget(self._again)
        layout.addSpacing(8)
        layout.addWidget(self.themes)
        layout.addWidget(self.help)
        theme().changed.connect(self._redraw)
        self._redraw()
        self.show_engine(StudioState())

    @property
    def status(self) -> str:
        """What it says of the engine."""
        return self._status.text()

    def show_engine(self, state: StudioState) -> None:
        """Show the engine's stage and device."""
        text = _STAGES[state.stage]
        if state.stage is Stage.READY and state.device:
            text += f" · {state.device}"
        self._status.setText(text)
        self._status.setToolTip(formatting.tooltip(text))
        self._dot.stage = state.stage
        self._dot.update()
        self._again.setVisible(state.stage is Stage.STOPPED)

    def _theme_menu(self) -> QMenu:
        menu = QMenu(self)
        group = QActionGroup(menu)
        for choice in CHOICES:
            action = QAction(_THEMES[choice], menu, checkable=True)
            action.setChecked(choice == theme().choice)
            action.triggered.connect(lambda _=False, choice=choice: self.theme_chosen.emit(choice))
            group.addAction(action)
            menu.addAction(action)
        return menu

    def _help_menu(self) -> QMenu:
        menu = QMenu(self)
        for keys, meaning in SHORTCUTS:
            action = menu.addAction(f"{meaning[:1].upper()}{meaning[1:]}\t{keys}")
            action.setEnabled(False)
        return menu

    def _redraw(self) -> None:
        self.themes.set_icon("moon" if theme().colours.name == "dark" else "sun")
        self._status.setAlignment(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight)
