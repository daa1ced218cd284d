"""What can be done with a picture: open it, show its folder, copy it, read its settings, take it out of the history."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, QPoint, Signal
from PySide6.QtWidgets import QFileDialog, QMenu, QWidget

from app import desktop
from app.panels.canvas import to_image
from app.shown import Kind, Picture
from core.messages import ResidencyError, Result

_FILES = "Pictures and clips (*.png *.mp4)"


class PictureActions(QObject):
    """Menus and actions. What goes wrong is told in one sentence."""

    read_from = Signal(object, object)  # Request, and the Result where the picture is one of ours
    removed = Signal(object)  # Result
    start_wanted = Signal(Path)  # a picture to start from

    def __init__(self, window: QWidget, say: Callable[[str], None]) -> None:
        super().__init__(window)
        self._window, self._say = window, say

    def read(self, path: Path) -> None:
        """Read the settings of a picture file; one that has none is started from."""
        try:
            result, request = desktop.read_picture(path)
        except ResidencyError as error:
            if desktop.is_picture(path):
                self.start_wanted.emit(path)
            else:
                self._say(str(error))
            return
        self.read_from.emit(request, result)

    def ask_for_one(self) -> None:
        """Let the person choose a picture file, and read it."""
        file, _ = QFileDialog.getOpenFileName(self._window, "Open a picture's settings", "", _FILES)
        if file:
            self.read(Path(file))

    def open(self, result: Result) -> None:
        """Open a picture in the person's viewer."""
        self._do(desktop.open_file, result)

    def menu(self, result: Result, at: QPoint) -> None:
        """All that can be done with a picture, as a menu at a place of the screen."""
        menu = QMenu(self._window)
        menu.addAction("Open").triggered.connect(lambda: self.open(result))
        menu.addAction("Show in folder").triggered.connect(lambda: self._do(desktop.show_in_folder, result))
        if result.frames == 1:
            start = menu.addAction("Start from this picture")
            start.triggered.connect(lambda: self.start_wanted.emit(Path(result.file)))
        menu.addAction("Copy picture").triggered.connect(lambda: self._do(desktop.copy_picture, result))
        menu.addAction("Copy prompt").triggered.connect(lambda: desktop.copy_text(result.prompt))
        menu.addSeparator()
        menu.addAction("Remove from history").triggered.connect(lambda: self.removed.emit(result))
        menu.aboutToHide.connect(menu.deleteLater)
        menu.popup(at)

    def menu_of_shown(self, picture: Picture | None, at: QPoint) -> None:
        """The menu of what is on the canvas, where that is a finished picture."""
        if (result := _finished(picture)) is not None:
            self.menu(result, at)

    def open_shown(self, picture: Picture | None) -> None:
        """Open what is on the canvas, where that is a finished picture."""
        if (result := _finished(picture)) is not None:
            self.open(result)

    def copy_shown(self, picture: Picture | None) -> None:
        """Copy what is on the canvas, finished or not."""
        if picture is not None:
            desktop.copy_image(to_image(picture))

    def _do(self, action: Callable[[Path], None], result: Result) -> None:
        try:
            action(Path(result.file))
        except ResidencyError as error:
            self._say(str(error))


def _finished(picture: Picture | None) -> Result | None:
    return picture.result if picture is not None and picture.kind is Kind.FULL else None
