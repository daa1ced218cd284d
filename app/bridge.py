"""EngineBridge: the threads between the window and the engine's client. The window's thread never waits for either.

Two QThreads: one hands commands over (submitting writes to disk), one reads events. Events reach the window in
batches: a signal is sent only when the window has taken the batch before it, so a slow window gets fewer and larger
batches instead of a growing backlog, and of several previews of one picture only the newest is kept.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec
from PySide6.QtCore import QObject, Qt, QThread, Signal

from app.shelf import PAGE, Page
from core import folders
from core.messages import (
    AS_PLANNED,
    EngineStopped,
    Event,
    Finished,
    How,
    Preview,
    Progress,
    Request,
    ResidencyError,
    Result,
    UserError,
)

if TYPE_CHECKING:
    from core.library.index import Library
    from core.library.queue import JobQueue

_log = logging.getLogger(__name__)

# The client itself gives the engine 5 s to leave before it kills it; the threads end well within this.
CLOSE_SECONDS = 15.0
_POLL_SECONDS = 0.25


class EngineFace(Protocol):
    """What the bridge needs of an engine's client (`core.engine.client.EngineClient` or a test's double)."""

    @property
    def jobs(self) -> JobQueue: ...
    def start(self) -> None: ...
    def submit(self, request: Request) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    def retry(self, request_id: str) -> None: ...
    def warm_up(self, model: str, how: How) -> None: ...
    def next_event(self, timeout: float | None = None) -> Event | None: ...
    def restart(self) -> None: ...
    def close(self) -> None: ...


def _engine_client() -> EngineFace:
    # imported in the bridge's thread, after the first frame
    from core.engine.client import EngineClient

    return EngineClient()


class EngineBridge(QObject):
    """Commands go in as calls that return at once, events come out as signals in the window's thread."""

    events = Signal(list)  # list[Event], in order
    jobs = Signal(list)  # list[Job]: the durable queue as it was at the start
    page = Signal(object)  # Page: the newest results at the start, then what was asked for
    trouble = Signal(str)  # one sentence: something outside the engine went wrong

    _wake = Signal()

    def __init__(self, make_client: Callable[[], EngineFace] = _engine_client, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._make_client = make_client
        self._commands: queue.SimpleQueue[Callable[[_Desk], None] | None] = queue.SimpleQueue()
        self._inbox: list[Event] = []
        self._lock = threading.Lock()
        self._waking = False
        self._thread = _CommandThread(self, self._commands)
        self._wake.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    # -- commands: any of them may come before `start` ---------------------------------------------------------------

    def start(self) -> None:
        """Start the threads, and in them the engine."""
        if not self._thread.isRunning():
            self._thread.start()

    def submit(self, request: Request) -> None:
        """Hand a request to the engine. A picture to keep is given its file's name on the way."""
        self._commands.put(lambda desk: desk.submit(request))

    def cancel(self, request_id: str) -> None:
        """Stop or drop a request."""
        self._commands.put(lambda desk: desk.client.cancel(request_id))

    def retry(self, request_id: str) -> None:
        """Queue a failed or set-aside request once more."""
        self._commands.put(lambda desk: desk.client.retry(request_id))

    def remove_job(self, request_id: str) -> None:
        """Take a failed or set-aside job out of the durable queue."""
        self._commands.put(lambda desk: desk.client.jobs.remove(request_id))

    def load_page(self, query: str, offset: int) -> None:
        """Ask for results that a query finds, all of them where it is empty, from `offset` on."""
        self._commands.put(lambda desk: self.page.emit(desk.page(query, offset)))

    def forget_result(self, result_id: str) -> None:
        """Take a result out of the history; its file stays."""
        self._commands.put(lambda desk: desk.library.remove(result_id))

    def warm_up(self, model: str, how: How = AS_PLANNED) -> None:
        """Ask the engine to load a model now, to be used as `how` says."""
        self._commands.put(lambda desk: desk.client.warm_up(model, how))

    def restart(self) -> None:
        """Start the engine again after it gave up, or the threads after they could not begin."""
        if self._thread.isFinished():
            self._thread.start()
            return
        self._commands.put(lambda desk: desk.client.restart())

    def close(self) -> bool:
        """End the engine, then the threads: stdin closed, wait, kill, `QThread.wait`. True when all have ended."""
        self._commands.put(None)
        if not self._thread.isRunning() and not self._thread.isFinished():
            return True  # never started
        return self._thread.wait(round(CLOSE_SECONDS * 1000))

    # -- events ------------------------------------------------------------------------------------------------------

    def receive(self, event: Event) -> None:
        """Take an event in, from the reading thread."""
        with self._lock:
            if isinstance(event, Preview | Progress):
                self._inbox = [old for old in self._inbox if not _supersedes(event, old)]
            self._inbox.append(event)
            if self._waking:
                return
            self._waking = True
        self._wake.emit()

    def _deliver(self) -> None:
        with self._lock:
            batch, self._inbox = self._inbox, []
            self._waking = False
        if batch:
            self.events.emit(batch)


def _supersedes(new: Preview | Progress, old: Event) -> bool:
    return type(old) is type(new) and isinstance(old, Preview | Progress) and old.id == new.id


class _Desk:
    """What the command thread works with: the client and the library. Made and used in that thread."""

    def __init__(self, client: EngineFace, library: Library) -> None:
        self.client = client
        self.library = library

    def submit(self, request: Request) -> None:
        if not request.draft and not request.out:
            request = self._with_file(request)
        self.client.submit(request)

    def _with_file(self, request: Request) -> Request:
        """The request with a name for its file; whether it is a clip is for the model to say."""
        from core.library import metadata
        from core.models import catalogue
        from core.models.check import resolve

        frames = 1
        try:
            info = catalogue.find(request.model)
            if info.clip is None:  # the settings of a clip were taken over, but not its model
                request = msgspec.structs.replace(request, frames=None)
            frames = resolve(request, info).frames or 1
        except (ResidencyError, OSError):
            pass  # the engine will say what is wrong with it
        file = self.library.new_file(request, metadata.suffix_of(frames))
        return msgspec.structs.replace(request, out=str(file))

    def page(self, query: str, offset: int) -> Page:
        return Page(query, offset, self.library.search(query, PAGE, offset))


class _CommandThread(QThread):
    """Makes the client, carries commands to it one after another, and closes it."""

    def __init__(self, bridge: EngineBridge, commands: queue.SimpleQueue[Callable[[_Desk], None] | None]) -> None:
        super().__init__(bridge)
        self._bridge = bridge
        self._commands = commands

    def run(self) -> None:
        bridge = self._bridge
        try:
            desk = self._open()
        except UserError as error:
            bridge.receive(EngineStopped(False, str(error), kind=error.kind))
            return
        except Exception as error:
            _log.exception("the engine's client could not be made")
            reason = f"its queue cannot be opened ({error}); check that {folders.data()} can be written to"
            bridge.receive(EngineStopped(False, reason))
            return
        reader = _EventThread(bridge, desk)
        reader.start()
        try:
            desk.client.start()
        except Exception as error:
            _log.exception("the engine could not be started")
            bridge.receive(EngineStopped(False, f"it could not be started ({error})"))
        while (command := self._commands.get()) is not None:
            self._do(command, desk)
        self._do(lambda desk: desk.client.close(), desk)
        reader.stop()
        reader.wait()
        desk.library.close()

    def _open(self) -> _Desk:
        from core.library.index import Library

        library = Library()
        # what was made before is shown before the engine is even started
        self._bridge.page.emit(Page("", 0, library.recent(PAGE)))
        client = self._bridge._make_client()
        self._bridge.jobs.emit(client.jobs.jobs())
        return _Desk(client, library)

    def _do(self, command: Callable[[_Desk], None], desk: _Desk) -> None:
        try:
            command(desk)
        except UserError as error:
            self._bridge.trouble.emit(str(error))
        except Exception as error:
            _log.exception("a command to the engine failed")
            self._bridge.trouble.emit(f"That did not work: {error}. Try again; your prompt is kept.")


class _EventThread(QThread):
    """Reads the client's events until it is stopped, and files finished pictures in the library."""

    def __init__(self, bridge: EngineBridge, desk: _Desk) -> None:
        super().__init__()
        self._bridge = bridge
        self._desk = desk
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End after the events that are already there."""
        self._stopping.set()

    def run(self) -> None:
        while True:
            event = self._desk.client.next_event(_POLL_SECONDS)
            if event is None:
                if self._stopping.is_set():
                    return
                continue
            if isinstance(event, Finished) and event.result.file:
                self._file(event.result)
            self._bridge.receive(event)

    def _file(self, result: Result) -> None:
        try:
            self._desk.library.add(result)
        except Exception:
            # the file is the truth and the index can be rebuilt; the picture is shown all the same
            _log.exception("a picture could not be put into the index")
