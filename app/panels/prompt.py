"""The prompt: what is typed, the words that could stand there instead, and the button that makes the picture."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QFrame, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app import formatting
from app.panels.drafts import DraftsPanel
from app.vocabulary import Span, Vocabulary
from app.widgets.chips import WordChip
from app.widgets.controls import label, row, scroll_area
from app.widgets.flow import FlowLayout
from app.widgets.prompt_edit import PromptEdit
from app.widgets.starting import StartPicture

_KNOWN = "Words this model knows"


class WordPanel(QWidget):
    """The alternatives of the word at the caret; all words the model knows while the caret is on none of them."""

    chosen = Signal(str)  # in place of the word at the caret
    added = Signal(str)  # at the caret

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._word = label("", "badge")
        self._title = label(_KNOWN, "small")
        self._keys = label("Alt + ↑ ↓", "small")
        self._flow = FlowLayout(spacing=4)
        self._chips: dict[str, WordChip] = {}
        self._shown: tuple[tuple[str, ...], bool] = ((), False)
        self._known: tuple[str, ...] = ()
        self._pictured = True
        self.after: QWidget | None = None  # what comes before the chips when Tab is pressed
        head = row(self._word, self._title, spacing=8)
        head.setStretch(1, 1)
        head.addWidget(self._keys, 0, Qt.AlignmentFlag.AlignRight)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(head)
        layout.addLayout(self._flow)

    def set_pictured(self, pictured: bool) -> None:
        """Whether alternatives have room for a picture (drafts are made) or are words only."""
        if pictured != self._pictured:
            self._pictured = pictured
            words, instead = self._shown
            self._rebuild(words, instead)

    def set_known(self, words: list[str]) -> None:
        """All the words of the model."""
        self._known = tuple(words)

    def show_words(self, span: Span | None, words: list[str]) -> None:
        """Offer these words in place of the span's. Chips keep their places while words are tried one after another."""
        instead = span is not None
        self._word.setVisible(instead)
        self._keys.setVisible(instead)
        self._title.setText("could also be" if instead else _KNOWN)
        if span is not None:
            self._word.setText(span.word)
        wanted = tuple(words) if instead else self._known
        if (wanted, instead) != self._shown:
            self._rebuild(wanted, instead)
        for word, chip in self._chips.items():
            chip.setChecked(span is not None and word == span.word)
        self._let_tab_in()

    def set_image(self, word: str, image: QImage) -> None:
        """The picture that a word would make."""
        if word in self._chips:
            self._chips[word].set_image(image)

    def clear_images(self) -> None:
        """The prompt around the word changed: no word's picture is known any more."""
        for chip in self._chips.values():
            chip.clear_image()

    @property
    def words(self) -> tuple[str, ...]:
        """The words offered, in order."""
        return self._shown[0]

    @property
    def chips(self) -> dict[str, WordChip]:
        """The chip of each word."""
        return self._chips

    def _let_tab_in(self) -> None:
        """Tab stops once among the chips, at the chosen word or the first; arrow keys go on from there."""
        chips = list(self._chips.values())
        stop = next((chip for chip in chips if chip.isChecked()), chips[0] if chips else None)
        for chip in chips:
            chip.setFocusPolicy(Qt.FocusPolicy.TabFocus if chip is stop else Qt.FocusPolicy.NoFocus)
        if stop is not None and self.after is not None:
            QWidget.setTabOrder(self.after, stop)

    def _step(self, by: int) -> None:
        chips = list(self._chips.values())
        here = next((place for place, chip in enumerate(chips) if chip is self.sender()), -1)
        if here >= 0:
            chips[(here + by) % len(chips)].setFocus(Qt.FocusReason.OtherFocusReason)

    def _rebuild(self, words: tuple[str, ...], instead: bool) -> None:
        self._shown = (words, instead)
        for chip in self._chips.values():
            self._flow.removeWidget(chip)
            chip.hide()
            chip.deleteLater()
        self._chips = {}
        signal = self.chosen if instead else self.added
        use = "Use {} instead" if instead else "Add {}"
        for word in words:
            chip = WordChip(word, pictured=instead and self._pictured, use=use, parent=self)
            chip.clicked.connect(lambda _=False, word=word: signal.emit(word))
            chip.stepped.connect(self._step)
            self._flow.addWidget(chip)
            chip.show()
            self._chips[word] = chip
        self._let_tab_in()
        self._flow.invalidate()
        self.updateGeometry()


class PromptPanel(QFrame):
    """The left of the window. Emits what the person wants; the window decides."""

    typed = Signal()
    word_changed = Signal()
    generate = Signal()
    cancel = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.edit = PromptEdit()
        self.words = WordPanel()
        self.start = StartPicture()
        self.words.after = self.edit
        self.drafts = DraftsPanel()
        self.button = QPushButton("Generate")
        self.button.setProperty("role", "main")
        self.button.setAccessibleName("Generate")
        self.button.setToolTip("Make the full picture (Ctrl+Enter)")
        self.button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.stop = QPushButton("Cancel")
        self.stop.setProperty("role", "stop")
        self.stop.setAccessibleName("Cancel")
        self.stop.setToolTip("Stop the picture being made (Esc)")
        self.stop.hide()
        self._lay_out()
        self.edit.typed.connect(self.typed)
        self.edit.word_changed.connect(self._show_words)
        self.edit.word_changed.connect(self.word_changed)
        self.words.chosen.connect(self._use_word)
        self.words.added.connect(self._add_word)
        self.button.clicked.connect(self.generate)
        self.stop.clicked.connect(self.cancel)
        self.words.hide()

    def _lay_out(self) -> None:
        scrolled = QWidget()
        scrolled.setObjectName("scrolled")
        self._content = QVBoxLayout(scrolled)
        self._content.setContentsMargins(16, 6, 14, 8)
        self._content.setSpacing(12)
        self._title = label("Prompt", "title")
        self._content.addWidget(self._title)
        self._content.addWidget(self.edit)
        self._content.addWidget(self.start)
        self._content.addWidget(self.words)
        self._content.addStretch(1)
        area = scroll_area()
        area.setWidget(scrolled)
        foot = self._foot = QVBoxLayout()
        foot.setContentsMargins(16, 8, 14, 16)
        foot.setSpacing(8)
        foot.addWidget(self.drafts)
        buttons = row(self.button, self.stop)
        buttons.setStretch(0, 1)
        foot.addLayout(buttons)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 2, 0)
        layout.setSpacing(0)
        layout.addWidget(area, 1)
        layout.addLayout(foot)

    def set_compact(self, compact: bool) -> None:
        """Less height where the window is low."""
        self._title.setVisible(not compact)
        self._foot.setContentsMargins(16, 4 if compact else 8, 14, 8 if compact else 16)
        self._foot.setSpacing(4 if compact else 8)
        self.edit.set_fewest_lines(2 if compact else 4)

    def take_in(self, side: QWidget) -> None:
        """Give the side panels room below the words, where the window is too narrow for a third column."""
        self._content.insertWidget(4, side)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """The words of the model in use."""
        self.words.set_known(list(dict.fromkeys(word for words in vocabulary.groups.values() for word in words)))
        self.edit.set_vocabulary(vocabulary)
        self.words.setVisible(bool(vocabulary))
        self._show_words()

    def show_expected(self, seconds: float | None) -> None:
        """Say on the button how long the picture will take, where that is known."""
        text = "Generate" if seconds is None else f"Generate  ·  {formatting.seconds(seconds)}"
        if text != self.button.text():
            self.button.setText(text)
            self.button.setAccessibleDescription("" if seconds is None else f"about {formatting.seconds(seconds)}")

    def show_busy(self, busy: bool) -> None:
        """Offer to cancel while there is something to cancel."""
        if not busy and self.stop.hasFocus():
            self.button.setFocus()
        self.stop.setVisible(busy)

    def _show_words(self) -> None:
        span = self.edit.word
        self.words.show_words(span, self.edit.vocabulary.choices(span) if span is not None else [])

    def _use_word(self, word: str) -> None:
        self.edit.use_word(word)
        self.edit.setFocus()

    def _add_word(self, word: str) -> None:
        self.edit.insert_word(word)
        self.edit.setFocus()
