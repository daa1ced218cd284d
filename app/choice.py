"""Which model is in use: chosen from the list, opened or dropped, or brought back by a picture that it made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QThreadPool, Signal
from PySide6.QtWidgets import QFileDialog

from app.models import FILES, STARTER, Models
from app.settings import Settings
from app.window import StudioWindow
from core.messages import ResidencyError, Result

if TYPE_CHECKING:
    from core.models.catalogue import Match

_FILES = f"Models ({' '.join(f'*{ending}' for ending in FILES)})"
_HASH_DIGITS = 10  # as many of the fingerprint as the "Model hash" of the common metadata has


class ModelChoice(QObject):
    """Looks for models in a thread of its own, because telling two apart means reading from their files."""

    used = Signal(str)  # another model is in use; its values can be had from the models
    chosen = Signal()  # ... because the person chose it
    said = Signal(str, bool)  # one sentence, and whether it is an error
    settled = Signal()  # the model of a picture was looked for

    _matched = Signal(object, object)  # Result, Match: from the thread
    _added = Signal(str, str)  # a model's name, or why it is none: from the thread

    def __init__(self, window: StudioWindow, settings: Settings, models: Models, parent: QObject) -> None:
        super().__init__(parent)
        self._window, self._settings, self._models = window, settings, models
        self._pool = QThreadPool(self)
        self._pool.setMaxThreadCount(1)
        self._adding = QThreadPool(self)
        self._adding.setMaxThreadCount(1)
        self._looking_for = ""
        self._matched.connect(self._on_match)
        self._added.connect(self._on_added)
        window.options.model_chosen.connect(self.choose)
        window.options.folder_wanted.connect(self._open_folder)
        window.options.file_wanted.connect(self._open_file)

    @property
    def looking(self) -> bool:
        """Whether it is not yet known which model made the picture whose settings came back."""
        return bool(self._looking_for)

    def begin(self) -> None:
        """Show the known models and use the last session's."""
        wanted = self._settings.model
        if wanted not in self._models.names():
            self.said.emit(f"{wanted} is not among your models any more; open its folder or file.", True)
            wanted = STARTER
        self._use(wanted)

    def choose(self, name: str) -> None:
        """The person chose a model, which ends the search for a picture's."""
        if name != self._settings.model:
            self._settings.frames = None  # another family counts its frames differently
            self._use(name)
            self.chosen.emit()
        if self._looking_for:
            self._looking_for = ""
            self.settled.emit()

    def add(self, path: Path) -> None:
        """Use a model folder or file, and remember it; it is read in the thread, and the person goes on meanwhile."""

        def look() -> None:
            try:
                name, wrong = self._models.add(path), ""
            except ResidencyError as error:
                name, wrong = "", str(error)
            self._added.emit(name, wrong)

        self._adding.start(look)

    def bring_back(self, result: Result) -> None:
        """Look for the model that made a picture, and use it; `settled` follows."""
        self._looking_for = result.id

        def look() -> None:
            self._matched.emit(result, self._models.match(result.model, result.fingerprint))

        self._pool.clear()
        self._pool.start(look)

    def close(self) -> None:
        """Look for nothing more."""
        self._looking_for = ""
        self._pool.clear()
        self._adding.clear()
        self._pool.waitForDone()
        self._adding.waitForDone()

    def _on_match(self, result: Result, match: Match) -> None:
        if result.id != self._looking_for:
            return  # another picture or another model was chosen meanwhile
        self._looking_for = ""
        if match.name and match.name != self._settings.model:
            self._use(match.name)
        if not match.name:
            self.said.emit(
                f"This picture was made with {result.model} ({result.family}, model hash "
                f"{result.fingerprint[:_HASH_DIGITS]}), which is not among your models; open its folder or file.",
                False,
            )
        elif not match.same:
            self.said.emit(
                f"This picture was made with another {match.name} than yours (model hash "
                f"{result.fingerprint[:_HASH_DIGITS]}); made again here it may look different.",
                False,
            )
        self.settled.emit()

    def _on_added(self, name: str, wrong: str) -> None:
        if wrong:
            self.said.emit(wrong, True)
            return
        self._window.options.show_models(self._models.names(), name)
        self.choose(name)

    def _open_file(self) -> None:
        file, _ = QFileDialog.getOpenFileName(self._window, "Open a model file", "", _FILES)
        if file:
            self.add(Path(file))

    def _open_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self._window, "Open a model folder")
        if folder:
            self.add(Path(folder))

    def _use(self, name: str) -> None:
        self._settings.model = name
        try:
            self._models.use(name)
        except ResidencyError as error:
            self.said.emit(str(error), True)
        options = self._window.options
        options.show_models(self._models.names(), name)
        options.show_defaults(self._models.defaults)
        self.used.emit(name)
