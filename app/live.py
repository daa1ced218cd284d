"""Live mode: drafts follow the typing, and while nothing else runs, the words that could be chosen get their pictures.

A draft of the text as it stands always comes first. Only when it is there, the engine is idle and drafts are quick,
are drafts of the alternatives made, one at a time; the next key ends that at once. What was drafted is remembered, so
that a word chosen by its picture is on the canvas without waiting.

Where a draft takes so long that it would always show an older text, live mode pauses: drafts are made one at a time,
when the person asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from app.pace import SLOW_SECONDS, Pace
from core.messages import Cancelled, EngineStopped, Event, Failed, Finished, Phase, Progress, Request, Result

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
    paused = Signal(object)  # float: seconds that a draft takes while live mode pauses for it; None: it goes on

    def __init__(
        self, submit: Callable[[Request, bool], None], cancel: Callable[[str], None], pace: Pace, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._submit, self._cancel, self._pace = submit, cancel, pace
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(DEBOUNCE_MS)
        self._timer.timeout.connect(self._draft)
        # runs while the first draft of a model is computed: a text typed on meanwhile would cancel it unmeasured
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.setInterval(round(SLOW_SECONDS * 1000))
        self._patience.timeout.connect(self._lose_patience)
        self._subject: Request | None = None  # what is written now: of its model and size the pace counts
        self._wanted: Request | None = None  # to be drafted when the timer ends
        self._missed: Request | None = None  # not drafted because of the pause
        self._pending: dict[str, Request] = {}  # drafts on their way, by id
        self._ahead: dict[str, str] = {}  # of these, the ones made for a word
        self._words: list[tuple[str, Request]] = []
        self._made: OrderedDict[bytes, Draft] = OrderedDict()
        self._bytes = 0
        self._pause: float | None = None
        self.enabled = True
        self.engine_busy = False
        self.anyway: set[str] = set()  # models that are drafted while typing however slow they are

    # -- what the window tells ---------------------------------------------------------------------------------------

    def look(self, request: Request) -> None:
        """Hear what would be drafted now, without drafting it: live mode pauses where that would take too long."""
        self._subject = request
        self._look_at_pace()

    def changed(self, request: Request, *, at_once: bool = False) -> None:
        """The text or a setting changed: draft it soon; `at_once` where no further key is expected."""
        self._words = []
        self.look(request)
        if not self.enabled or not request.prompt:
            self.forget()
        elif self._show_made(request):
            pass
        elif self._pause is not None:
            self._missed = request  # a draft that is being made goes on: it was asked for, or will tell the pace
        else:
            self._wanted = request
            if at_once:
                self._draft()
            else:
                self._timer.start()

    def draft_now(self, request: Request) -> None:
        """Make one draft of this text, whatever the pace."""
        wanted = _key(request)
        if self._show_made(request) or wanted in (_key(pending) for pending in self._pending.values()):
            return
        self._subject = self._wanted = request
        self._draft()

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
        self._wanted = self._missed = None
        self._words = []
        self._drop_pending()

    def take(self, event: Event) -> None:
        """Learn from an event."""
        match event:
            case Progress(id=request_id, phase=Phase.LOAD) if request_id in self._pending:
                self._patience.stop()
            case Progress(id=request_id) if request_id in self._pending and request_id not in self._ahead:
                if not self._patience.isActive():
                    self._patience.start()
            case Finished(id=request_id, result=result, pixels=pixels) if request_id in self._pending:
                self._remember(self._pending[request_id], (result, pixels))
                self._pace.record(self._pending[request_id], result)
                word = self._ahead.get(request_id)
                self._done(request_id)
                if word is not None:
                    self.word_ready.emit(word, result, pixels)
                self._look_at_pace()
                self._draft_ahead()
            case Failed(id=request_id) | Cancelled(id=request_id):
                if request_id in self._ahead and isinstance(event, Failed):
                    self._words = []  # the others would fail alike
                self._done(request_id)
                self._draft_ahead()
            case EngineStopped():
                self._engine_lost()
            case _:
                pass

    # -- drafts ------------------------------------------------------------------------------------------------------

    def _draft(self) -> None:
        self._timer.stop()
        request, self._wanted, self._missed = self._wanted, None, None
        if request is None:
            return
        # the client cancels older drafts by itself when it gets a new one
        self._patience.stop()
        self._pending = {request.id: request}
        self._ahead = {}
        self._submit(request, False)

    def _draft_ahead(self) -> None:
        if self._pending or self._timer.isActive() or self.engine_busy or not self.enabled or self._pause is not None:
            return
        # while nothing is known of the model's pace, one draft made ahead will tell
        seconds = self._pace.seconds(self._words[0][1]) if self._words else None
        if seconds is not None and seconds >= QUICK_SECONDS:
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

    def _show_made(self, request: Request) -> bool:
        """Show a draft that was made before; whether there is one."""
        made = self._made.get(_key(request))
        if made is None:
            return False
        self._timer.stop()
        self._wanted = self._missed = None
        self._drop_pending()
        self.ready.emit(*made)
        return True

    def _engine_lost(self) -> None:
        """The client sends again what waited or was being made; but drafts made ahead are not worth it."""
        self._patience.stop()
        self._pace.nothing_loaded()
        for request_id in list(self._ahead):
            self._cancel(request_id)
            self._done(request_id)

    def _lose_patience(self) -> None:
        for request_id, request in self._pending.items():
            if request_id not in self._ahead:
                self._pace.at_least(request, SLOW_SECONDS)
        self._look_at_pace()

    def _look_at_pace(self) -> None:
        """Pause where drafts are slow, and go on with the newest text where they are quick again."""
        request = self._subject
        if request is None:
            return
        slow = self.enabled and request.model not in self.anyway and self._pace.is_slow(request)
        before, self._pause = self._pause, self._pace.seconds(request) if slow else None
        if self._pause is None and self._missed is not None:
            self._wanted, self._missed = self._missed, None
            self._timer.start()
        elif self._pause is not None and self._wanted is not None:
            self._wanted, self._missed = None, self._wanted
            self._timer.stop()
        if self._pause != before:
            self.paused.emit(self._pause)

    def _drop_pending(self) -> None:
        self._patience.stop()
        for request_id in list(self._pending):
            self._cancel(request_id)
        self._pending, self._ahead = {}, {}

    def _done(self, request_id: str) -> None:
        if request_id in self._pending and request_id not in self._ahead:
            self._patience.stop()
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
