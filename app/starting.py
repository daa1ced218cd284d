"""Starting from a picture, which comes from a file, a drop, the clipboard or the history."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QObject, Signal
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QFileDialog

from app.models import Models
from app.settings import SIZE_STEP, Settings
from app.window import StudioWindow
from core import folders
from core.messages import Init, ResidencyError
from core.models.starting import size_from

_FILES = "Pictures (*.png *.jpg *.jpeg *.webp *.gif *.bmp *.tif *.tiff *.avif)"
_EDGE = 1024  # of models that say nothing
_STRENGTH = 0.6  # what most families' pipelines default to (core.models.starting)


class Starting(QObject):
    """Keeps the window's picture and the settings the same."""

    changed = Signal()

    def __init__(self, window: StudioWindow, settings: Settings, models: Models, say: Callable[[str], None]) -> None:
        super().__init__(window)
        self._prompt, self._options = window.prompt, window.options
        self._settings, self._models, self._say = settings, models, say
        prompt = self._prompt
        prompt.start.changed.connect(self._on_changed)
        prompt.start.wanted.connect(self.ask_for_one)
        prompt.start.dropped.connect(self.start_from)
        prompt.edit.image_pasted.connect(self.paste)
        prompt.edit.file_pasted.connect(self.start_from)

    def show(self) -> None:
        """Show what the settings say. A picture that is not there any more is forgotten."""
        init = self._settings.init
        if init is not None and not Path(init.file).is_file():
            self._settings.init = None
            if not init.sha256:  # with one it comes from a result, of which the studio tells
                self._say(f"{Path(init.file).name}, which the next picture was to start from, is not there any more.")
        self._prompt.start.show_init(self._settings.init)
        if self._settings.init is not None:
            self.show_size()

    def show_size(self) -> None:
        """Show which size the next picture has where none is asked for: that of the picture that it starts from."""
        size = None
        if self._settings.init is not None:
            from core.library import pictures

            own = self._models.defaults
            with contextlib.suppress(ResidencyError):  # the engine will say so
                picture = pictures.size_of(Path(self._settings.init.file))
                size = size_from(picture, SIZE_STEP, (own.width or _EDGE, own.height or _EDGE))
        self._options.show_own_size(size)

    def start_from(self, path: Path) -> None:
        """Let the next picture start from a file."""
        from core.library import pictures  # brings Pillow, which the first frame does not need

        try:
            pictures.size_of(path)
        except ResidencyError as error:
            self._say(str(error))
            return
        known = self._settings.init
        self._settings.init = Init(str(path), known.strength if known is not None else _STRENGTH)
        self._prompt.start.show_init(self._settings.init)
        self.show_size()
        self.changed.emit()

    def paste(self, image: QImage) -> None:
        """Let the next picture start from what is on the clipboard; it is kept as a file."""
        from core.files import write_atomically

        data = QByteArray()
        buffer = QBuffer(data)
        buffer.open(QIODevice.OpenModeFlag.WriteOnly)
        image.save(buffer, "PNG")  # type: ignore[call-overload]  # the stub wants bytes, Qt takes them for no format
        content = data.data()
        file = folders.data() / "pasted" / f"{hashlib.sha256(content).hexdigest()[:16]}.png"
        try:
            write_atomically(file, lambda stream: stream.write(content))
        except OSError as error:
            self._say(f"The picture could not be kept in {file.parent} ({error.strerror}); free some disk space.")
            return
        self.start_from(file)

    def ask_for_one(self) -> None:
        """Let the person choose a picture file."""
        file, _ = QFileDialog.getOpenFileName(self._prompt, "Start from a picture", "", _FILES)
        if file:
            self.start_from(Path(file))

    def _on_changed(self) -> None:
        self._settings.init = self._prompt.start.init
        if self._settings.init is None:
            self.show_size()
        self.changed.emit()
