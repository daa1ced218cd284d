"""Small pictures of files, read in threads of their own and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict

from PySide6.QtCore import QObject, QRunnable, QSize, Qt, QThreadPool, Signal
from PySide6.QtGui import QImage, QImageReader, QPixmap

_KEPT = 400


class _Loader(QRunnable):
    def __init__(self, store: Thumbnails, file: str, side: int) -> None:
        super().__init__()
        self._store, self._file, self._side = store, file, side

    def run(self) -> None:
        reader = QImageReader(self._file)
        size = reader.size()
        if size.isValid():
            # the reader shrinks while it decodes where the format can
            reader.setScaledSize(
                size.scaled(QSize(self._side, self._side), Qt.AspectRatioMode.KeepAspectRatioByExpanding)
            )
        image = reader.read()
        self._store.loaded.emit(self._file, image)


class Thumbnails(QObject):
    """Square thumbnails by file. `ready` names a file whose thumbnail can now be had."""

    ready = Signal(str)
    loaded = Signal(str, QImage)  # from the loading threads

    def __init__(self, side: int, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._side = side
        self._pixmaps: OrderedDict[str, QPixmap] = OrderedDict()
        self._asked: set[str] = set()
        self._pool = QThreadPool(self)
        self._pool.setMaxThreadCount(1)
        self.loaded.connect(self._keep)

    def get(self, file: str) -> QPixmap | None:
        """The thumbnail, or None while it is being read. A null pixmap stands for a file that cannot be read."""
        if file in self._pixmaps:
            self._pixmaps.move_to_end(file)
            return self._pixmaps[file]
        if file not in self._asked:
            self._asked.add(file)
            self._pool.start(_Loader(self, file, self._side))
        return None

    def close(self) -> None:
        """Wait for what is being read; nothing more is read."""
        self._pool.clear()
        self._pool.waitForDone()

    def _keep(self, file: str, image: QImage) -> None:
        self._asked.discard(file)
        side = min(image.width(), image.height())
        if side:
            image = image.copy((image.width() - side) // 2, (image.height() - side) // 2, side, side)
        self._pixmaps[file] = QPixmap.fromImage(image)
        while len(self._pixmaps) > _KEPT:
            self._pixmaps.popitem(last=False)
        self.ready.emit(file)
