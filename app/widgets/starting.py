"""The picture that the next one starts from: a thumbnail, how far to go from it, and a way to be rid of it."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QMimeData, QSize, Qt, Signal
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QImage, QImageReader, QPixmap
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSlider, QVBoxLayout, QWidget

from app import formatting
from app.widgets.controls import ElidedLabel, IconButton, label, row
from core.messages import Init

_EDGE = 44  # of the thumbnail
_LEAST, _MOST, _STEP = 5, 100, 5  # per cent
_TIP = "How far to go from the picture: a little changes details, 100 % keeps nothing of it"


class StartPicture(QWidget):
    """A quiet button while there is none. `changed` comes when the person removed it or moved the slider."""

    changed = Signal()
    wanted = Signal()  # a picture to start from
    dropped = Signal(Path)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._init: Init | None = None
        self.setAcceptDrops(True)
        self.choose = QPushButton("Start from a picture…")
        self.choose.setProperty("role", "quiet")
        self.choose.setToolTip("Choose a picture, drop one here, or paste one into the prompt")
        self._frame = QFrame()
        self._frame.setObjectName("starting")
        self._thumbnail = QLabel()
        self._thumbnail.setFixedSize(_EDGE, _EDGE)
        self._thumbnail.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._name = ElidedLabel("", "small")
        self._share = label("", "small")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(_LEAST, _MOST)
        self.slider.setSingleStep(_STEP)
        self.slider.setPageStep(2 * _STEP)
        self.slider.setAccessibleName("How far to go from the picture")
        self.slider.setToolTip(_TIP)
        self.remove = IconButton("close", "Start from no picture")
        self._lay_out()
        self.choose.clicked.connect(self.wanted)
        self.remove.clicked.connect(self._removed)
        self.slider.valueChanged.connect(self._moved)
        self.show_init(None)

    @property
    def init(self) -> Init | None:
        """What is to be started from."""
        return self._init

    def show_init(self, init: Init | None, strength: float = 0.6) -> None:
        """Show a picture, or that there is none; nothing counts as changed. `strength` is meant where it says none."""
        other = init is None or self._init is None or init.file != self._init.file
        self._init = init
        self.choose.setVisible(init is None)
        self._frame.setVisible(init is not None)
        if init is None:
            return
        self.slider.blockSignals(True)
        self.slider.setValue(round(100 * (strength if init.strength is None else init.strength)))
        self.slider.blockSignals(False)
        self._show_share()
        if other:
            self._name.setText(Path(init.file).name)
            self._frame.setAccessibleName(f"Starts from {Path(init.file).name}")
            self._thumbnail.setPixmap(_thumbnail(init.file, self.devicePixelRatioF()))
            self._thumbnail.setToolTip(formatting.tooltip(init.file))

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Files may be dropped here."""
        if dropped_file(event.mimeData()) is not None:
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """A picture that is dropped here is started from, whatever it says of itself."""
        if (file := dropped_file(event.mimeData())) is not None:
            event.acceptProposedAction()
            self.dropped.emit(file)

    def _lay_out(self) -> None:
        first = row(self._name, self._share, spacing=8)
        lines = QVBoxLayout()
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(2)
        lines.addLayout(first)
        lines.addWidget(self.slider)
        inside = QHBoxLayout(self._frame)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setSpacing(10)
        inside.addWidget(self._thumbnail)
        inside.addLayout(lines, 1)
        inside.addWidget(self.remove, 0, Qt.AlignmentFlag.AlignVCenter)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.choose, 0, Qt.AlignmentFlag.AlignLeft)
        layout.addWidget(self._frame)

    def _show_share(self) -> None:
        self._share.setText(f"change {self.slider.value()} %")

    def _moved(self, value: int) -> None:
        if self._init is not None:
            self._init = Init(self._init.file, value / 100, self._init.sha256)
            self._show_share()
            self.changed.emit()

    def _removed(self) -> None:
        self.show_init(None)
        self.choose.setFocus()
        self.changed.emit()


def dropped_file(data: QMimeData) -> Path | None:
    """The file that is dropped or pasted; None where it is none of this machine."""
    return next((Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()), None)


def _thumbnail(file: str, ratio: float) -> QPixmap:
    """The middle of a picture as a small square; empty where it cannot be read."""
    reader = QImageReader(file)
    reader.setAutoTransform(True)
    edge = round(_EDGE * ratio)
    if (size := reader.size()).isValid():  # a large photo is read small
        reader.setScaledSize(size.scaled(QSize(edge, edge), Qt.AspectRatioMode.KeepAspectRatioByExpanding))
    image = reader.read()
    if image.isNull():
        return QPixmap()
    image = _square(image, edge)
    pixmap = QPixmap.fromImage(image)
    pixmap.setDevicePixelRatio(ratio)
    return pixmap


def _square(image: QImage, edge: int) -> QImage:
    mode = Qt.TransformationMode.SmoothTransformation
    scaled = image.scaled(QSize(edge, edge), Qt.AspectRatioMode.KeepAspectRatioByExpanding, mode)
    return scaled.copy((scaled.width() - edge) // 2, (scaled.height() - edge) // 2, edge, edge)
