"""The picture of a result's file: the picture itself, or the cover of a clip, which is its first frame."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QBuffer, QByteArray, QIODevice, QSize, Qt
from PySide6.QtGui import QImage, QImageReader

from core.library import mp4


def still(file: str) -> QImage:
    """The picture of a file; null where there is none that can be read."""
    return QImage.fromData(mp4.read_cover(Path(file))) if _is_clip(file) else QImage(file)


def small(file: str, side: int) -> QImage:
    """The picture of a file, decoded no larger than it must be to cover a square; null where there is none."""
    if not _is_clip(file):
        reader = QImageReader(file)
    else:
        buffer = QBuffer()
        buffer.setData(QByteArray(mp4.read_cover(Path(file))))
        buffer.open(QIODevice.OpenModeFlag.ReadOnly)
        reader = QImageReader(buffer)
    size = reader.size()
    if size.isValid():
        # the reader shrinks while it decodes where the format can
        reader.setScaledSize(size.scaled(QSize(side, side), Qt.AspectRatioMode.KeepAspectRatioByExpanding))
    return reader.read()


def _is_clip(file: str) -> bool:
    return file.lower().endswith(".mp4")
