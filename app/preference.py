"""Connects what the person fixes about how pictures are made with the settings that every request is made from."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal

from app.panels.precision import PrecisionPanel
from app.settings import Settings


class Preference(QObject):
    """Speed or quality from the next picture on, and what came with a picture whose settings were taken over."""

    changed = Signal()

    def __init__(self, panel: PrecisionPanel, settings: Settings, parent: QObject) -> None:
        super().__init__(parent)
        self._panel, self._settings = panel, settings
        panel.preferred.connect(self._prefer)
        panel.freed.connect(self._free)
        self.show()

    def show(self) -> None:
        """Show what the settings hold."""
        self._panel.show_how(self._settings.how)

    def _prefer(self, preference: float) -> None:
        self._settings.prefer(preference)
        self.changed.emit()

    def _free(self) -> None:
        self._settings.free()
        self.show()
        self.changed.emit()
