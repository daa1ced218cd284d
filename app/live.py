"""Live mode: drafts follow the typing, and while nothing else runs, the words that could be chosen get their pictures.

A draft of the text as it stands always comes first. Only when it is there, the engine is idle and drafts are quick,
are drafts of the alternatives made, one at a time; the next key ends that at once. What was drafted is remembered, so
that a word chosen by its picture is on the canvas without waiting.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from core.messages import Cancelled, Event, Failed, Finished, Request, Result

# Long enough to join the letters of a word typed fast, short enough to leave the engine the rest of a second.
DEBOUNCE_MS = 130
# Alternatives are drafted ahead only where a draft takes less than this.
QUICK_SECONDS = 1.2
_REMEMBERED_BYTES = 64 << 20

Draft = tuple[Result, bytes]


class LiveDrafts(QObject):
    """Decides which drafts to ask for.

    `submit` is told with each request whether it is made ahead, and so is not to be shown on the canvas. `ready` brings
    a draft of the text as it stands that was made before.
    """

    ready = Signal(object, bytes)  # Result, pixels
    word_ready = Signal(str, object, bytes)  # word, Result, pixels

    def __init__(self, submit: Callable[[Request, bool], None], cancel: Callable[[str], None], parent: QObject) -> None:
        super().__init__(parent)
        self._submit, self._cancel = submit, cancel
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(DEBOUNCE_MS)
        self._timer.timeout.connect(self._draft)
        self._wanted: Request | None = None
        self._pending: dict[str, Request] = {}  # drafts on their way, by id
        self._ahead: dict[str, str] = {}  # of these, the ones made for a word
        self._words: list[tuple[str, Request]] = []
        self._made: OrderedDict[bytes, Draft] = OrderedDict()
        self._bytes = 0
        self._seconds: float | None = None
        self.enabled = True
        self.engine_busy = False

    # -- what the window tells ---------------------------------------------------------------------------------------

    def changed(self, request: Request, *, at_once: bool = False) -> None:
        """The text or a setting changed: draft it soon; `at_once` where no further key is expected."""
        self._words = []
        if not self.enabled or not request.prompt:
            self.forget()
            return
        self._wanted = request
        made = self._made.get(_key(request))
        if made is not None:
            self._timer.stop()
            self._wanted = None
            self._drop_pending()
            self.ready.emit(*made)
            return
        if at_once:
            self._timer.stop()
            self._draft()
        else:
            self._timer.start()

    def offer(self, words: list[tuple[str, Request]]) -> None:
        """These words can be chosen at the caret; each with the request that it would make."""
        self._words = []
        for word, request in words:
            made = self._made.get(_key(request))
            if made is not None:
                self.word_ready.emit(word, *made)
            else:
                self._words.append((word, request))
        self._draft_ahead()

    def forget(self) -> None:
        """Ask for nothing more: a picture was chosen, or live mode ended."""
        self._timer.stop()
        self._wanted = None
        self._words = []
        self._drop_pending()

    def engine_lost(self) -> None:
        """The engine ended; the client sends what waits again, but drafts made ahead are not worth it."""
        for request_id in list(self._ahead):
            self._cancel(request_id)
            self._done(request_id)

    def take(self, event: Event) -> None:
        """Learn from an event."""
        match event:
            case Finished(id=request_id, result=result, pixels=pixels) if request_id in self._pending:
                self._remember(self._pending[request_id], (result, pixels))
                self._seconds = result.seconds.get("total", self._seconds)
                word = self._ahead.get(request_id)
                self._done(request_id)
                if word is not None:
                    self.word_ready.emit(word, result, pixels)
                self._draft_ahead()
            case Failed(id=request_id) | Cancelled(id=request_id):
                if request_id in self._ahead and isinstance(event, Failed):
                    self._words = []  # the others would fail alike
                self._done(request_id)
                self._draft_ahead()
            case _:
                pass

    # -- drafts ------------------------------------------------------------------------------------------------------

    def _draft(self) -> None:
        request, self._wanted = self._wanted, None
        if request is None:
            return
        # the client cancels older drafts by itself when it gets a new one
        self._pending = {request.id: request}
        self._ahead = {}
        self._submit(request, False)

    def _draft_ahead(self) -> None:
        # while nothing is known of the model's pace, one draft made ahead will tell
        quick = self._seconds is None or self._seconds < QUICK_SECONDS
        if self._pending or self._timer.isActive() or self.engine_busy or not quick or not self.enabled:
            return
        while self._words:
            word, request = self._words.pop(0)
            made = self._made.get(_key(request))
            if made is not None:
                self.word_ready.emit(word, *made)
                continue
            self._pending[request.id] = request
            self._ahead[request.id] = word
            self._submit(request, True)
            return

    def _drop_pending(self) -> None:
        for request_id in list(self._pending):
            self._cancel(request_id)
        self._pending, self._ahead = {}, {}

    def _done(self, request_id: str) -> None:
        self._pending.pop(request_id, None)
        self._ahead.pop(request_id, None)

    def _remember(self, request: Request, draft: Draft) -> None:
        key = _key(request)
        if not draft[1] or key in self._made:
            return
        self._made[key] = draft
        self._bytes += len(draft[1])
        while self._bytes > _REMEMBERED_BYTES:
            _, (_, pixels) = self._made.popitem(last=False)
            self._bytes -= len(pixels)


def _key(request: Request) -> bytes:
    """Everything that the pixels depend on."""
    return msgspec.msgpack.encode(msgspec.structs.replace(request, id="", out=""))
