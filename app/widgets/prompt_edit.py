"""The editor that prompts are typed in: knows which of the model's words the caret is on and shows which can change."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QMimeData, QRectF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QDragEnterEvent,
    QImage,
    QKeyEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QTextCursor,
)
from PySide6.QtWidgets import QPlainTextEdit, QWidget

from app.theme.theme import theme
from app.vocabulary import Span, Vocabulary
from app.widgets.starting import dropped_file

_MOST_LINES = 9
_PLACEHOLDER = "Describe a picture…"


class PromptEdit(QPlainTextEdit):
    """Plain text, large. `typed` comes with each change a person made, `word_changed` when the caret's word changes."""

    typed = Signal()
    word_changed = Signal()
    image_pasted = Signal(QImage)
    file_pasted = Signal(Path)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("prompt")
        self.setAccessibleName("Prompt")
        self.setAccessibleDescription("Describe the picture. Control and Enter makes it.")
        self.setPlaceholderText(_PLACEHOLDER)
        self.setTabChangesFocus(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._vocabulary = Vocabulary()
        self._word: Span | None = None
        self._quiet = False
        self._fewest = 4
        self.textChanged.connect(self._on_text)
        self.cursorPositionChanged.connect(self._look_at_caret)
        theme().changed.connect(self._repaint)
        self._fit()

    @property
    def word(self) -> Span | None:
        """The known word that the caret is on."""
        return self._word

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that can be changed for others."""
        return self._vocabulary

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Know other words, those of another model."""
        self._vocabulary = vocabulary
        self._look_at_caret()
        self._repaint()

    def set_text(self, text: str) -> None:
        """Put another prompt in place of this one, without it counting as typed. Undo brings the old one back."""
        if text == self.toPlainText():
            return
        self._quiet = True
        cursor = QTextCursor(self.document())
        cursor.select(QTextCursor.SelectionType.Document)
        cursor.insertText(text)
        self.setTextCursor(cursor)
        self._quiet = False

    def set_fewest_lines(self, lines: int) -> None:
        """The height it has while little is written."""
        if lines != self._fewest:
            self._fewest = lines
            self._fit()

    def use_word(self, word: str) -> None:
        """Put another word where the caret's word is; counts as typed, and the caret stays on it."""
        span = self._word
        if span is None:
            return
        start, new = Vocabulary.replaced(self.toPlainText(), span, word)
        cursor = self.textCursor()
        cursor.setPosition(start)
        cursor.setPosition(span.end, QTextCursor.MoveMode.KeepAnchor)
        cursor.insertText(new)
        self.setTextCursor(cursor)

    def insert_word(self, word: str) -> None:
        """Put a word in at the caret, with the spaces it needs; counts as typed."""
        text, cursor = self.toPlainText(), self.textCursor()
        before, after = text[: cursor.selectionStart()], text[cursor.selectionEnd() :]
        left = " " if before and not before[-1].isspace() else ""
        right = " " if after and after[0].isalnum() else ""
        cursor.insertText(left + word + right)
        if right:
            cursor.movePosition(QTextCursor.MoveOperation.Left)
        self.setTextCursor(cursor)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Alt+Up and Alt+Down go through the alternatives of the word at the caret."""
        if event.modifiers() & Qt.KeyboardModifier.AltModifier and event.key() in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            if self._word is not None:
                step = 1 if event.key() == Qt.Key.Key_Down else -1
                self.use_word(self._vocabulary.neighbour(self._word, step))
            event.accept()
            return
        super().keyPressEvent(event)

    def canInsertFromMimeData(self, source: QMimeData) -> bool:
        """Text, and pictures to start from."""
        return source.hasText() or source.hasImage()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Text may be dropped; files are for the window."""
        if dropped_file(event.mimeData()) is not None:
            event.ignore()
        else:
            super().dragEnterEvent(event)

    def insertFromMimeData(self, source: QMimeData) -> None:
        """Paste text only, as one paragraph of it may come from anywhere; a picture is to be started from."""
        if (file := dropped_file(source)) is not None:
            self.file_pasted.emit(file)
            return
        text = source.text()
        if source.hasImage() and not text:
            self.image_pasted.emit(QImage(source.imageData()))
        elif text:
            self.textCursor().insertText(text)

    def paintEvent(self, event: QPaintEvent) -> None:
        """Mark the words that can change, and the one at the caret, behind the text."""
        if not self._vocabulary:
            super().paintEvent(event)
            return
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colours = theme().colours
        for span in self._vocabulary.spans(self.toPlainText()):
            for box in self._boxes(span):
                if self._word is not None and span.start == self._word.start:
                    painter.setPen(QPen(QColor(colours.accent), 1))
                    painter.setBrush(QColor(colours.accent_soft))
                    painter.drawRoundedRect(box.adjusted(-2.5, 0.5, 2.5, -0.5), 5, 5)
                else:
                    colour = QColor(colours.accent)
                    colour.setAlphaF(0.55)
                    painter.fillRect(QRectF(box.left(), box.bottom() - 1.5, box.width(), 1.5), colour)
        painter.end()
        super().paintEvent(event)

    def _boxes(self, span: Span) -> list[QRectF]:
        """Where a span is on the screen; one box for each line that it is on."""
        document = self.document()
        block = document.findBlock(span.start)
        layout = block.layout()
        offset = self.blockBoundingGeometry(block).translated(self.contentOffset()).topLeft()
        first, last = span.start - block.position(), span.end - block.position()
        boxes = []
        for number in range(layout.lineCount()):
            line = layout.lineAt(number)
            start = max(first, line.textStart())
            end = min(last, line.textStart() + line.textLength())
            if start >= end:
                continue
            left, right = _x(line, start), _x(line, end)
            boxes.append(QRectF(offset.x() + left, offset.y() + line.y(), right - left, line.height()))
        return boxes

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Other widths break lines elsewhere."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        """As high as the text, between a few lines and many."""
        lines = max(self._fewest, min(_MOST_LINES, round(self.document().size().height())))
        # document sizes of a QPlainTextEdit are in lines; the rest is padding and border
        self.setFixedHeight(lines * self.fontMetrics().lineSpacing() + 2 * round(self.document().documentMargin()) + 18)

    def _on_text(self) -> None:
        self._fit()
        self._look_at_caret()
        self._repaint()
        if not self._quiet:
            self.typed.emit()

    def _repaint(self) -> None:
        # the first call of viewport() makes the binding look through all of its widget classes, which takes longer
        # than anything else here; without a vocabulary, as before the first frame, nothing needs it
        if self._vocabulary:
            self.viewport().update()

    def _look_at_caret(self) -> None:
        word = self._vocabulary.at(self.toPlainText(), self.textCursor().position())
        if word != self._word:
            self._word = word
            self._repaint()
            self.word_changed.emit()


def _x(line: object, position: int) -> float:
    """`QTextLine.cursorToX`, which answers with one number or with a pair, depending on the binding's version."""
    answer = line.cursorToX(position)  # type: ignore[attr-defined]
    return float(answer[0] if isinstance(answer, tuple) else answer)
