"""The settings of a picture: model, size, seed, steps, and what is seldom needed under More."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QMenu,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.settings import LARGEST_SIZE, Settings, new_seed, snapped
from app.theme.theme import theme
from app.widgets.controls import Choice, DecimalField, IconButton, NumberField, label, row
from app.widgets.seed import SeedField
from core.models.info import Defaults

_AUTO = "auto"
_OPEN_FOLDER, _OPEN_FILE = "Open a model folder…", "Open a model file…"
# width to height; sizes are made from these around the model's own number of pixels
_SHAPES = (
    ("Square", 1, 1),
    ("Landscape 3:2", 3, 2),
    ("Landscape 16:9", 16, 9),
    ("Portrait 2:3", 2, 3),
    ("Portrait 9:16", 9, 16),
)
_MOST_STEPS = 150


class OptionsPanel(QFrame):
    """Holds the controls; `values_into` and `show_settings` carry them to and from plain data."""

    changed = Signal()  # a setting that changes the picture
    model_chosen = Signal(str)
    folder_wanted = Signal()
    file_wanted = Signal()
    said = Signal(str)  # one sentence about a value that was corrected

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.model = Choice("Model")
        self.seed = SeedField("Seed")
        self.lock = IconButton("unlock", "Keep the seed", "Keep the seed for the next picture (Ctrl+L)", on="lock")
        self.dice = IconButton("dice", "New seed", "Another seed (Ctrl+R)")
        self.steps = NumberField("Steps", 0, _MOST_STEPS, _AUTO)
        self.width_field = NumberField("Width", 0, LARGEST_SIZE, _AUTO)
        self.height_field = NumberField("Height", 0, LARGEST_SIZE, _AUTO)
        self.shapes = IconButton("sizes", "Choose a shape")
        self.more = QPushButton("More")
        self.guidance = DecimalField("Guidance", 0.0, 30.0, _AUTO)
        self.negative = QPlainTextEdit()
        self._defaults = Defaults()
        self._model = "starter"
        self._filling = False
        self._prepare()
        self._lay_out()
        self._connect()

    # -- to and from plain data --------------------------------------------------------------------------------------

    def show_settings(self, settings: Settings) -> None:
        """Show these settings; nothing counts as changed."""
        self._filling = True
        self.seed.set_seed(settings.seed)
        self.lock.setChecked(settings.seed_locked)
        self.steps.setValue(settings.steps or 0)
        self.width_field.setValue(settings.width or 0)
        self.height_field.setValue(settings.height or 0)
        self.guidance.setValue(settings.guidance or 0.0)
        self.negative.setPlainText(settings.negative_prompt)
        self._select_model(settings.model)
        self._filling = False

    def values_into(self, settings: Settings) -> None:
        """Write the controls' values into the settings."""
        settings.seed = self.seed.seed()
        settings.seed_locked = self.lock.isChecked()
        settings.steps = self.steps.value() or None
        settings.width = self.width_field.value() or None
        settings.height = self.height_field.value() or None
        settings.guidance = self.guidance.value() or None
        settings.negative_prompt = self.negative.toPlainText()
        settings.model = self._model

    def commit(self) -> None:
        """Take over what is typed into a field that was not left yet."""
        for field in (self.steps, self.width_field, self.height_field, self.guidance):
            # an untouched one may show the model's own value, which must not become the person's
            if field.lineEdit().isModified():
                field.interpretText()

    def show_models(self, names: list[str], current: str) -> None:
        """The models that can be chosen."""
        self._filling = True
        self.model.clear()
        for name in names:
            self.model.addItem("Starter" if name == "starter" else name, name)
        self.model.insertSeparator(self.model.count())
        self.model.addItem(_OPEN_FOLDER, "")
        self.model.addItem(_OPEN_FILE, "")
        self._select_model(current)
        self._filling = False

    def show_defaults(self, defaults: Defaults) -> None:
        """The model's own values stand in the fields that are left to it."""
        self._defaults = defaults
        for field, value in (
            (self.steps, defaults.steps),
            (self.width_field, defaults.width),
            (self.height_field, defaults.height),
        ):
            field.setSpecialValueText(f"{value}" if value else _AUTO)
        self.guidance.setSpecialValueText(f"{defaults.guidance:g}" if defaults.guidance is not None else _AUTO)

    def show_own_size(self, size: tuple[int, int] | None) -> None:
        """The size that stands in the fields that are left open, where it is another than the model's (None)."""
        own = size or (self._defaults.width, self._defaults.height)
        for field, value in zip((self.width_field, self.height_field), own, strict=True):
            field.setSpecialValueText(f"{value}" if value else _AUTO)

    def roll(self) -> None:
        """Another seed."""
        self.seed.set_seed(new_seed())
        self._on_change()

    def roll_quietly(self) -> None:
        """Another seed for the next picture, without asking for a draft of it now."""
        self._filling = True
        self.seed.set_seed(new_seed())
        self._filling = False

    def toggle_lock(self) -> None:
        """Keep the seed, or not."""
        self.lock.toggle()

    def show_more(self, shown: bool) -> None:
        """Open or close what is seldom needed."""
        self.more.setChecked(shown)

    # -- how it is made ----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.negative.setObjectName("negative")
        self.negative.setAccessibleName("Negative prompt")
        self.negative.setPlaceholderText("What should not be there")
        self.negative.setTabChangesFocus(True)
        self.negative.setFixedHeight(58)
        self.more.setProperty("role", "quiet")
        self.more.setCheckable(True)
        self.more.setAccessibleName("More settings")
        self.shapes.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.shapes)
        menu.addAction("The model's own").triggered.connect(lambda: self._set_size(0, 0))
        for name, across, down in _SHAPES:
            menu.addAction(name).triggered.connect(lambda _=False, a=across, d=down: self._set_shape(a, d))
        self.shapes.setMenu(menu)
        for field in (self.steps, self.width_field, self.height_field):
            field.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        for field in (self.width_field, self.height_field):
            field.setSingleStep(16)
        self._redraw()
        theme().changed.connect(self._redraw)

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(8)
        grid.setColumnStretch(1, 1)
        grid.setColumnMinimumWidth(0, self.fontMetrics().horizontalAdvance("Guidance"))  # as below More
        size = row(self.width_field, label("×", "muted"), self.height_field, self.shapes, spacing=6)
        size.setStretch(0, 1)
        size.setStretch(2, 1)
        seed = row(self.seed, self.lock, self.dice, spacing=4)
        seed.setStretch(0, 1)
        for line, (name, content) in enumerate(
            (("Model", row(self.model)), ("Size", size), ("Seed", seed), ("Steps", row(self.steps)))
        ):
            grid.addWidget(label(name, "muted"), line, 0)
            grid.addLayout(content, line, 1)
        self._extra = QWidget()
        extra = QGridLayout(self._extra)
        extra.setContentsMargins(0, 0, 0, 0)
        extra.setHorizontalSpacing(12)
        extra.setVerticalSpacing(8)
        extra.setColumnStretch(1, 1)
        extra.addWidget(label("Guidance", "muted"), 0, 0)
        extra.addWidget(self.guidance, 0, 1)
        extra.addWidget(label("Without", "muted"), 1, 0, Qt.AlignmentFlag.AlignTop)
        extra.addWidget(self.negative, 1, 1)
        self._extra.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(16, 12, 16, 8)
        layout.setSpacing(8)
        layout.addLayout(grid)
        layout.addWidget(self.more, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(self._extra)

    def _connect(self) -> None:
        self.seed.changed.connect(self._on_change)
        self.steps.valueChanged.connect(self._on_change)
        self.guidance.valueChanged.connect(self._on_change)
        self.negative.textChanged.connect(self._on_change)
        self.width_field.valueChanged.connect(self._on_size)
        self.height_field.valueChanged.connect(self._on_size)
        self.dice.clicked.connect(self.roll)
        self.more.toggled.connect(self._extra.setVisible)
        self.more.toggled.connect(self._redraw)
        self.model.activated.connect(self._on_model)

    def _on_change(self) -> None:
        if not self._filling:
            self.changed.emit()

    def _on_size(self) -> None:
        field = self.sender()
        if self._filling or not isinstance(field, NumberField):
            return
        typed = field.value()
        good = snapped(typed)
        if good != typed:
            self._filling = True
            field.setValue(good)
            self._filling = False
            self.said.emit(f"Sizes go in steps of 16 pixels, so {typed} became {good}.")
        self._complete_size(field)
        self._on_change()

    def _complete_size(self, field: NumberField) -> None:
        """Width and height are set together: one alone would leave the other to the model."""
        other = self.height_field if field is self.width_field else self.width_field
        default = self._defaults.height if other is self.height_field else self._defaults.width
        wanted = other.value()
        if field.value() == 0:
            wanted = 0
        elif other.value() == 0:
            wanted = default or field.value()
        if wanted != other.value():
            self._filling = True
            other.setValue(wanted)
            self._filling = False

    def _set_size(self, width: int, height: int) -> None:
        self._filling = True
        self.width_field.setValue(width)
        self.height_field.setValue(height)
        self._filling = False
        self._on_change()

    def _set_shape(self, across: int, down: int) -> None:
        own = (self._defaults.width or 1024) * (self._defaults.height or 1024)
        scale = (own / (across * down)) ** 0.5
        self._set_size(snapped(round(across * scale)), snapped(round(down * scale)))

    def _on_model(self, index: int) -> None:
        name = self.model.itemData(index)
        if name:
            self._model = name
            self.model_chosen.emit(name)
        else:
            file = self.model.itemText(index) == _OPEN_FILE
            self._select_model(self._model)
            (self.file_wanted if file else self.folder_wanted).emit()

    def _select_model(self, name: str) -> None:
        index = self.model.findData(name)
        if index >= 0:
            self._model = name
            self.model.setCurrentIndex(index)
        elif self.model.count() == 0:
            # the list of models comes after the first frame; what was chosen last stands there until then
            self._model = name
            self.model.setPlaceholderText(name.capitalize())

    def _redraw(self) -> None:
        name = "chevron-down" if self.more.isChecked() else "chevron-right"
        self.more.setIcon(theme().icon(name, theme().colours.muted))
