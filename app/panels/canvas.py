"""The picture: the one being made, a draft, or a finished one; and what to try when there is none yet."""

from __future__ import annotations

from PySide6.QtCore import QPoint, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QImage, QMouseEvent, QPainter, QPaintEvent, QPixmap
from PySide6.QtWidgets import QFrame, QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app import formatting
from app.shown import Kind, Picture, Stage, Work
from app.state import StudioState
from app.still import still
from app.theme.theme import theme
from app.widgets.controls import ElidedLabel, label
from app.widgets.flow import FlowLayout
from app.widgets.mark import Mark
from app.widgets.scaling import scaled
from core.messages import Phase

EXAMPLES = (
    "a red house by the sea at sunset, with birds",
    "a white lighthouse on the hills at night, with stars",
    "a yellow tent in the forest at dawn",
)


def to_image(picture: Picture) -> QImage:
    """The pixels of a picture as a QImage of its own memory; null when its file cannot be read."""
    if picture.pixels:
        if len(picture.pixels) < picture.width * picture.height * 3:
            return QImage()
        view = QImage(picture.pixels, picture.width, picture.height, picture.width * 3, QImage.Format.Format_RGB888)
        return view.convertToFormat(QImage.Format.Format_RGB32)
    return still(picture.file) if picture.file else QImage()


class PictureView(QWidget):
    """Paints one image as large as fits, whole, sharp."""

    opened = Signal()
    menu_wanted = Signal(QPoint)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAccessibleName("Picture")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumSize(120, 120)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(lambda at: self.menu_wanted.emit(self.mapToGlobal(at)))
        self._image = QImage()
        self._scaled: QPixmap | None = None
        self.painted_id = ""
        self._id = ""
        self._missing = ""

    def show_image(self, image: QImage, picture_id: str, missing: str = "") -> None:
        """Show another image. Where it is null, `missing` says why there is nothing to see."""
        self._image = image
        self._missing = missing
        self._scaled = None
        self._id = picture_id
        self.update()

    def resizeEvent(self, event: object) -> None:
        """Scale again at the next paint."""
        self._scaled = None

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        """Open the file."""
        self.opened.emit()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The image, centred."""
        self.painted_id = self._id
        if self._image.isNull():
            painter = QPainter(self)
            painter.setPen(QColor(theme().colours.muted))
            flags = Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap
            painter.drawText(self.rect().adjusted(24, 0, -24, 0), flags, self._missing)
            return
        ratio = self.devicePixelRatioF()
        room = QSize(round(self.width() * ratio), round(self.height() * ratio))
        if self._scaled is None:
            self._scaled = QPixmap.fromImage(scaled(self._image, room))
            self._scaled.setDevicePixelRatio(ratio)
        size = self._scaled.deviceIndependentSize()
        painter = QPainter(self)
        # whole device pixels, or a sharp picture would be smeared by half a pixel
        x = round((self.width() - size.width()) / 2 * ratio) / ratio
        y = round((self.height() - size.height()) / 2 * ratio) / ratio
        painter.drawPixmap(QRectF(x, y, size.width(), size.height()), self._scaled, QRectF(self._scaled.rect()))


class ProgressLine(QWidget):
    """A thin line that fills from left to right; moves nothing while there is nothing to say."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFixedHeight(3)
        self.fraction: float | None = None

    def show_fraction(self, fraction: float | None) -> None:
        """0 to 1, or None for no line."""
        if fraction != self.fraction:
            self.fraction = fraction
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """The done part in the accent's colour."""
        if self.fraction is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        for width, colour in (
            (self.width(), theme().colours.line),
            (self.width() * self.fraction, theme().colours.accent),
        ):
            painter.setBrush(QColor(colour))
            painter.drawRoundedRect(QRectF(0, 0, width, self.height()), 1.5, 1.5)


class Welcome(QWidget):
    """What stands where the picture will be, at the first start."""

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._title = label("", "hero")
        self._title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._title.setWordWrap(True)
        self._hint = label("", "muted")
        self._hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._hint.setWordWrap(True)
        self._examples = QWidget()
        flow = FlowLayout(self._examples, spacing=8, centred=True)
        for text in EXAMPLES:
            button = QPushButton(text)
            button.setProperty("role", "example")
            button.setAccessibleName(f"Try: {text}")
            button.setCursor(Qt.CursorShape.PointingHandCursor)
            button.clicked.connect(lambda _=False, text=text: self.chosen.emit(text))
            flow.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 0, 24, 0)
        layout.setSpacing(8)
        layout.addStretch(5)
        layout.addWidget(Mark(64), 0, Qt.AlignmentFlag.AlignHCenter)
        layout.addSpacing(8)
        layout.addWidget(self._title)
        layout.addWidget(self._hint)
        layout.addSpacing(12)
        layout.addWidget(self._examples)
        layout.addStretch(6)
        self.greet(Stage.STARTING, written=False)

    def greet(self, stage: Stage, *, written: bool) -> None:
        """Say what can be done now: nothing is written yet, the engine is not there yet, or all is ready."""
        self._examples.setVisible(not written)
        if not written:
            self._say("What do you want to see?", "Type on the left and watch it appear, or start from one of these:")
        elif stage is Stage.READY:
            self._say("Ready when you are", "Press Ctrl+Enter for the picture.")
        elif stage is Stage.STOPPED:
            self._say("The engine has stopped", "Start it again, at the top right; your prompt is kept.")
        else:
            self._say("One moment", "The engine is starting. Type on: the first draft comes as soon as it is ready.")

    def _say(self, title: str, hint: str) -> None:
        self._title.setText(title)
        self._hint.setText(hint)


class CanvasPanel(QFrame):
    """The middle of the window."""

    example_chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.view = PictureView()
        self.welcome = Welcome()
        self.welcome.chosen.connect(self.example_chosen)
        self.line = ProgressLine()
        self._badge = label("", "badge")
        self._left = ElidedLabel("", "muted")
        self._right = label("", "muted")
        self._shown: Picture | None = None
        head = QHBoxLayout()
        head.setContentsMargins(16, 12, 16, 0)
        head.setSpacing(8)
        head.addWidget(self._badge)
        head.addWidget(self._left, 1)
        head.addWidget(self._right)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(head)
        layout.addWidget(self.view, 1)
        layout.addWidget(self.welcome, 1)
        foot = QHBoxLayout()
        foot.setContentsMargins(16, 0, 16, 9)
        foot.addWidget(self.line)
        layout.addLayout(foot)
        self.show_picture(StudioState())
        self.show_work(StudioState())

    @property
    def caption(self) -> str:
        """What the head of the panel says, for readers and tests."""
        parts = (self._badge.text(), self._left.text(), self._right.text())
        return " ".join(part for part in parts if part)

    def show_picture(self, state: StudioState) -> None:
        """Show the state's picture."""
        picture = state.picture
        self.welcome.setVisible(picture is None)
        self.view.setVisible(picture is not None)
        if picture is not self._shown or picture is None:
            self._shown = picture
            image = QImage() if picture is None else to_image(picture)
            text = _description(picture, image)
            self.view.show_image(image, picture.id if picture else "", text)
            self.view.setAccessibleDescription(text)
        self.show_work(state)

    def show_work(self, state: StudioState) -> None:
        """Show how far the running picture is, or what the picture on the canvas is."""
        work, picture = state.work, state.picture
        if work is not None:
            badge = "Draft" if picture is not None and picture.kind is Kind.DRAFT else ""
            text = formatting.phase(work.phase)
            if work.phase is Phase.DENOISE and work.steps:
                text += f", step {work.step} of {work.steps}"
            if work.note:
                # while loading, the note is the component's name
                text += f" · {formatting.component(work.note) if work.phase is Phase.LOAD else work.note}"
            left = "" if work.seconds_left is None else f"{formatting.seconds(work.seconds_left)} left"
            self._say(badge, text, left)
            self.line.show_fraction(_fraction(work))
            return
        self.line.show_fraction(None)
        result = picture.result if picture is not None else None
        if picture is None or result is None:
            self._say("", "", "")
            return
        clip = f" · {result.frames} frames" if result.frames > 1 else ""
        facts = f"seed {result.seed} · {result.steps} steps · {result.width} × {result.height}{clip}"
        took = result.seconds.get("total")
        badge = "Draft" if picture.kind is Kind.DRAFT else ""
        self._say(badge, facts, formatting.seconds(took) if took else "")

    def _say(self, badge: str, left: str, right: str) -> None:
        self._badge.setText(badge)
        self._badge.setVisible(bool(badge))
        self._left.setText(left)
        self._right.setText(right)


def _description(picture: Picture | None, image: QImage) -> str:
    if picture is None:
        return ""
    if image.isNull():
        return f"{picture.file} cannot be shown; it was moved or deleted."
    return picture.result.prompt if picture.result is not None else "unfinished"


def _fraction(work: Work) -> float:
    """How much of the line is filled: the steps are nearly all of the time."""
    if work.phase in (Phase.DECODE, Phase.SAVE):
        return 1.0
    return work.step / work.steps if work.phase is Phase.DENOISE and work.steps else 0.0
