"""The controls of "what if": another card, another amount of memory, another model."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtWidgets import QComboBox, QCompleter, QGridLayout, QLineEdit, QSizePolicy, QWidget

from app.forecast import GB, Card
from app.plan_words import size_of_card
from app.view import WhatIf
from app.widgets.controls import Choice, label

_MEMORIES = (4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 80)
_HERE = "This machine"
_SAME = "The one above"


class SearchChoice(Choice):
    """A choice that can be typed into: any part of a name finds it. What is no name goes back to the last one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.text = QLineEdit()
        self.text.setAccessibleName(name)
        self.setLineEdit(self.text)
        self.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.setMaxVisibleItems(14)
        completer = QCompleter(self.model(), self)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        completer.setCompletionMode(QCompleter.CompletionMode.PopupCompletion)
        self.setCompleter(completer)
        self.text.editingFinished.connect(self._settle)

    def _settle(self) -> None:
        typed = self.text.text().strip().lower()
        names = [self.itemText(index) for index in range(self.count())]
        found = [index for index, name in enumerate(names) if typed and typed in name.lower()]
        exact = [index for index in found if names[index].lower() == typed]
        wanted = (exact or found or [self.currentIndex()])[0]
        if wanted != self.currentIndex():
            self.setCurrentIndex(wanted)
            self.activated.emit(wanted)
        else:
            self.setEditText(self.itemText(wanted))


class WhatIfControls(QWidget):
    """Emits what the person wants to see planned."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.card = SearchChoice("What if: the card")
        self.memory = Choice("What if: its memory")
        self.model = Choice("What if: the model")
        self._own = 0
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(1, 1)
        for line, (name, field) in enumerate(
            (("Card", self.card), ("Memory", self.memory), ("Model", self.model)),
        ):
            field.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            grid.addWidget(label(name, "muted"), line, 0)
            grid.addWidget(field, line, 1)
            field.activated.connect(self._on_choice)
        self.card.addItem(_HERE, "")
        self.model.addItem(_SAME, "")
        self._fill_memory()

    def show_choices(self, cards: list[Card], models: list[tuple[str, str]]) -> None:
        """The cards and models that there are; this machine is the first card."""
        with QSignalBlocker(self.card), QSignalBlocker(self.model):
            self.card.clear()
            for card in cards:
                text = card.title if card.name else f"{_HERE} · {card.title}"
                self.card.addItem(text, card.name)
                self.card.setItemData(self.card.count() - 1, card.memory_bytes, Qt.ItemDataRole.UserRole + 1)
            self.model.clear()
            self.model.addItem(_SAME, "")
            for name, title in models:
                self.model.addItem(title, name)
        self._fill_memory()
        self._show_starts()

    def chosen(self) -> WhatIf:
        """What is chosen."""
        memory = self.memory.currentData()
        return WhatIf(self.model.currentData() or "", self.card.currentData() or "", memory or None)

    def choose(self, wanted: WhatIf) -> None:
        """Show a choice; nothing counts as changed."""
        self.card.setCurrentIndex(max(0, self.card.findData(wanted.card)))
        self._fill_memory()
        self.memory.setCurrentIndex(max(0, self.memory.findData(wanted.memory_bytes or 0)))
        self.model.setCurrentIndex(max(0, self.model.findData(wanted.model)))
        self._show_starts()

    def _on_choice(self) -> None:
        if self.sender() is self.card:
            self._fill_memory()  # another card begins with the memory that it has
            self._show_starts()
        self.changed.emit()

    def _show_starts(self) -> None:
        """Long names are read from their beginning."""
        self.card.text.setCursorPosition(0)

    def _fill_memory(self) -> None:
        own = int(self.card.currentData(Qt.ItemDataRole.UserRole + 1) or 0)
        with QSignalBlocker(self.memory):
            self.memory.clear()
            self.memory.addItem(f"Its own {size_of_card(own)}" if own else "Its own", 0)
            for amount in _MEMORIES:
                if amount * GB != own:
                    self.memory.addItem(f"{amount} GB", amount * GB)
