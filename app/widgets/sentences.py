"""A short list of sentences, each with a dot before it and wrapped beside that."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QSizePolicy, QWidget

from app.widgets.controls import label


class Sentences(QWidget):
    """Labels are made anew only when the sentences are others."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(6)
        self._grid.setVerticalSpacing(5)
        self._grid.setColumnStretch(1, 1)

    def show_sentences(self, sentences: list[str]) -> None:
        """Show these."""
        if sentences == self.sentences:
            return
        self.sentences = sentences
        while (item := self._grid.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        for line, sentence in enumerate(sentences):
            text = label(sentence, "small")
            text.setWordWrap(True)
            text.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            self._grid.addWidget(label("•", "small"), line, 0, Qt.AlignmentFlag.AlignTop)
            self._grid.addWidget(text, line, 1)
