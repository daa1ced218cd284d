"""Scaling pictures for the screen."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt
from PySide6.QtGui import QImage


def scaled(image: QImage, room: QSize) -> QImage:
    """The image as large as fits into `room` (device pixels), whole and in proportion.

    Shrinking averages, as Qt does it. Enlarging uses Lanczos' filter, because Qt's own smears small pictures.
    """
    size = image.size().scaled(room, Qt.AspectRatioMode.KeepAspectRatio)
    if size.isEmpty() or image.isNull():
        return QImage()
    if size.width() <= image.width():
        return image.scaled(size, Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.SmoothTransformation)
    return _enlarged(image, size)


def _enlarged(image: QImage, size: QSize) -> QImage:
    from PIL import Image  # after the first frame, which shows no picture

    source = image.convertToFormat(QImage.Format.Format_RGBX8888)
    pixels = bytes(source.constBits())
    stride = source.bytesPerLine()
    picture = Image.frombuffer("RGBX", (source.width(), source.height()), pixels, "raw", "RGBX", stride, 1)
    large = (
        picture.convert("RGB").resize((size.width(), size.height()), Image.Resampling.LANCZOS).tobytes("raw", "RGBX")
    )
    view = QImage(large, size.width(), size.height(), size.width() * 4, QImage.Format.Format_RGBX8888)
    return view.copy()
