"""Small pictures of files, read in a thread of its own and kept while there is room."""

from __future__ import annotations

from collections import OrderedDict, deque

from PySide6.QtCore import QObject, QThreadPool, Signal
from PySide6.QtGui import QImage, QPixmap

from app.still import small

_KEPT = 400
# Whoever scrolls past thousands wants those where the scrolling ended: of what waits, the oldest is dropped.
_WAITING = 60


class Thumbnails(QObject):
    """Square thumbnails by file. `ready` names a file whose thumbnail can now be had."""

    ready = Signal(str)
    loaded = Signal(str, QImage)  # from the loading thread

    def __init__(self, side: int, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._side = side
        self._pixmaps: OrderedDict[str, QPixmap] = OrderedDict()
        self._asked: set[str] = set()
        self._waiting: deque[str] = deque()  # shared with the thread; a deque's ends are safe to use from two
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
            self._waiting.append(file)
            self._pool.start(self._read_next)
            if len(self._waiting) > _WAITING:
                self._asked.discard(self._waiting.popleft())
        return None

    def close(self) -> None:
        """Wait for what is being read; nothing more is read."""
        self._waiting.clear()
        self._pool.clear()
        self._pool.waitForDone()

    def _read_next(self) -> None:
        """In the thread: read one of those that wait."""
        try:
            file = self._waiting.popleft()
        except IndexError:
            return  # dropped meanwhile
        self.loaded.emit(file, small(file, self._side))

    def _keep(self, file: str, image: QImage) -> None:
        self._asked.discard(file)
        side = min(image.width(), image.height())
        if side:
            image = image.copy((image.width() - side) // 2, (image.height() - side) // 2, side, side)
        self._pixmaps[file] = QPixmap.fromImage(image)
        while len(self._pixmaps) > _KEPT:
            self._pixmaps.popitem(last=False)
        self.ready.emit(file)
