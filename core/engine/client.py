"""The client: keeps an engine alive, keeps every request until it is done, and turns all that happens into events.

It has the same face whether the engine is a child process (`EngineClient`) or a thread (`core.engine.InProcessEngine`).
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from core import folders
from core.engine.outbox import Outbox
from core.engine.process import ChildProcess
from core.engine.transport import Transport
from core.library import metadata
from core.library.queue import Job, JobQueue, State
from core.messages import (
    AS_PLANNED,
    Cancel,
    Cancelled,
    EngineStarting,
    EngineStopped,
    ErrorKind,
    Event,
    Failed,
    Finished,
    How,
    Request,
    SetAside,
    Started,
    Submit,
    UserError,
    WarmedUp,
    WarmUp,
)

# A request during which the engine died this often is set aside: it would only kill it again.
MAX_DEATHS = 2
# An engine that ends this often without ever becoming ready is not started again by itself.
MAX_FAILED_STARTS = 3
RESTART_PAUSE_SECONDS = 0.5


class Client:
    """Submit requests, read events. One thread may call each method at a time; `next_event` may have its own."""

    def __init__(self, make_transport: Callable[[], Transport], jobs: JobQueue) -> None:
        self._make_transport = make_transport
        self._jobs = jobs
        # never full: whoever reads slowly gets fewer previews and heartbeats, and everything else
        self._events = Outbox(capacity=sys.maxsize)
        self._lock = threading.RLock()
        self._transport: Transport | None = None
        self._drafts: dict[str, Request] = {}
        self._draft_deaths = 0  # engines that ended while they made the newest draft
        self._cancelling: set[str] = set()
        self._running: list[str] = []
        self._attempt = 0
        self._failed_starts = 0
        self._warm: WarmUp | None = None
        self._closing = False

    @property
    def jobs(self) -> JobQueue:
        """The durable queue, for showing what waits."""
        return self._jobs

    def start(self) -> None:
        """Start the engine and hand it every waiting request, those of an earlier session included."""
        with self._lock:
            for job in self._jobs.jobs(State.RUNNING):
                # the window ended while it ran; that is not the request's fault
                self._recover(job, died=False)
            self._start_engine()

    def submit(self, request: Request) -> None:
        """Queue a request. A draft supersedes every draft before it and is not kept on disk.

        Raises:
            UserError: the request holds something that cannot be written down.
        """
        request = _absolute(request)
        with self._lock:
            if request.draft:
                for older in list(self._drafts):
                    self.cancel(older)
                self._drafts[request.id] = request
                self._draft_deaths = 0
            else:
                self._jobs.add(request)
            self._send(Submit(request))

    def cancel(self, request_id: str) -> None:
        """Drop a waiting request or stop the running one: `Cancelled` follows, unless it ends by itself before.

        It leaves the durable queue at once: whatever happens to the engine or the window, it is not made again.
        """
        with self._lock:
            job = self._jobs.get(request_id)
            if request_id not in self._drafts and job is None:
                return
            self._drafts.pop(request_id, None)
            self._jobs.remove(request_id)
            if self._transport is not None and (job is None or job.state in (State.WAITING, State.RUNNING)):
                self._cancelling.add(request_id)
                self._send(Cancel(request_id))
            else:
                self._events.put(Cancelled(request_id))

    def retry(self, request_id: str) -> None:
        """Queue a failed or set-aside request once more."""
        with self._lock:
            job = self._jobs.get(request_id)
            if job is not None and job.state in (State.FAILED, State.SET_ASIDE):
                self._jobs.requeue(request_id)
                self._send(Submit(job.request))

    def warm_up(self, model: str, how: How = AS_PLANNED) -> None:
        """Ask the engine to load a model now; asked again by itself after a restart."""
        with self._lock:
            self._warm = WarmUp(model, how)
            self._send(self._warm)

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event, in order; None when none came within `timeout` seconds."""
        return self._events.get(timeout)

    def restart(self) -> None:
        """Start the engine again after it gave up."""
        with self._lock:
            if self._transport is None and not self._closing:
                self._failed_starts = 0
                self._start_engine()

    def close(self) -> None:
        """Stop the engine and wait until it is gone. Waiting requests stay in the queue."""
        with self._lock:
            self._closing = True
            transport = self._transport
        if transport is not None:
            transport.stop()
        self._jobs.close()

    # -- the engine's life ------------------------------------------------------------------------------------------

    def _start_engine(self) -> None:
        self._attempt += 1
        self._events.put(EngineStarting(self._attempt))
        transport = self._make_transport()
        try:
            transport.start(self._on_event, self._on_exit)
        except OSError as error:
            self._events.put(EngineStopped(False, f"the engine could not be started: {error}"))
            return
        self._transport = transport
        for job in self._jobs.jobs(State.WAITING):
            # what an engine died over is made alone: whatever it was, it takes no other request with it
            transport.send(Submit(job.request, alone=job.deaths > 0))
        for request in self._drafts.values():
            transport.send(Submit(request))
        if self._warm is not None:
            transport.send(self._warm)

    def _on_exit(self, reason: str, kind: ErrorKind = ErrorKind.INTERNAL) -> None:
        with self._lock:
            self._transport = None
            if self._closing:
                self._events.put(EngineStopped(True))
                return
            self._failed_starts += 1
            again = self._failed_starts < MAX_FAILED_STARTS and kind is ErrorKind.INTERNAL
            self._events.put(EngineStopped(False, reason, again, kind))
            try:
                self._after_death(reason)
            except sqlite3.Error as error:
                self._events.put(_queue_trouble(error))
            if not again:
                return
        timer = threading.Timer(RESTART_PAUSE_SECONDS, self._restart_after_death)
        timer.daemon = True
        timer.start()

    def _restart_after_death(self) -> None:
        with self._lock:
            if not self._closing and self._transport is None:
                self._start_engine()

    def _after_death(self, reason: str) -> None:
        running, self._running = self._running, []
        cancelled, self._cancelling = self._cancelling, set()
        for request_id in cancelled:
            self._events.put(Cancelled(request_id))
        if not running:
            self._warm = None  # what it was doing when it died; a request that needs the model will load it
        for request_id in running:
            if request_id in self._drafts:
                self._lose_draft(request_id, reason)
            elif (job := self._jobs.get(request_id)) is not None:
                self._recover(job, died=True, reason=reason)

    def _lose_draft(self, request_id: str, reason: str) -> None:
        """A draft is made again by the next engine, as nothing newer was asked for; unless it seems to be the cause."""
        self._draft_deaths += 1
        if self._draft_deaths >= MAX_DEATHS:
            del self._drafts[request_id]
            why = (
                f"The engine stopped {MAX_DEATHS} times while making a draft ({reason}); change the prompt or the size."
            )
            self._events.put(Failed(request_id, ErrorKind.INTERNAL, why))

    def _recover(self, job: Job, *, died: bool, reason: str = "") -> None:
        """Decide what becomes of a job that was running when its engine ended."""
        request = job.request
        # the picture is written before its event is sent, so it may be there although nobody said so
        result = metadata.read_result(Path(request.out)) if request.out else None
        if result is not None and result.id == request.id:
            self._jobs.remove(request.id)
            self._events.put(Finished(request.id, result))
        elif died and self._jobs.count_death(request.id) >= MAX_DEATHS:
            why = f"The engine stopped {MAX_DEATHS} times while making this picture ({reason}); it was set aside."
            self._jobs.set_state(request.id, State.SET_ASIDE, why)
            self._events.put(SetAside(request.id, why))
        else:
            self._jobs.set_state(request.id, State.WAITING)

    # -- events -----------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        with self._lock:
            try:
                self._keep_books(event)
            except sqlite3.Error as error:
                self._events.put(_queue_trouble(error))
        self._events.put(event)

    def _keep_books(self, event: Event) -> None:
        match event:
            case Started(id=request_id):
                self._failed_starts = 0
                if request_id not in self._running:  # one may be begun again
                    self._running.append(request_id)
                self._jobs.set_state(request_id, State.RUNNING)
            case WarmedUp():
                self._failed_starts = 0
            case Finished(id=request_id) | Cancelled(id=request_id):
                self._ended(request_id)
                self._jobs.remove(request_id)
            case Failed(id=request_id, sentence=sentence):
                self._ended(request_id)
                self._jobs.set_state(request_id, State.FAILED, sentence)
            case _:
                pass

    def _ended(self, request_id: str) -> None:
        if request_id in self._running:
            self._running.remove(request_id)
        self._cancelling.discard(request_id)
        self._drafts.pop(request_id, None)

    def _send(self, command: Submit | Cancel | WarmUp) -> None:
        if self._transport is not None:
            self._transport.send(command)


class EngineClient(Client):
    """The engine in a child process of its own: a fault of the driver takes the engine, never the prompt."""

    def __init__(self, jobs: JobQueue | None = None, log: Path | None = None) -> None:
        """Keep the queue and the log in the user's folders, unless given others."""
        log_file = log or folders.logs() / "engine.log"
        super().__init__(lambda: ChildProcess(log_file), jobs or JobQueue(folders.data() / "queue.sqlite"))


def _absolute(request: Request) -> Request:
    """The request as it means the same in another process, and after a restart."""
    try:
        msgspec.json.encode(request)
        if request.seed.bit_length() > 63:
            raise OverflowError(f"the seed {request.seed} is too long")
    except (UnicodeEncodeError, OverflowError, msgspec.MsgspecError) as error:
        raise UserError(f"The request cannot be written down ({error}); change the prompt or the seed.") from error
    # a model is a name or a path, and only a path has a separator
    is_path = "/" in request.model or os.sep in request.model
    return msgspec.structs.replace(
        request,
        out=str(folders.user_path(request.out)) if request.out else "",
        model=str(folders.user_path(request.model)) if is_path else request.model,
    )


def _queue_trouble(error: sqlite3.Error) -> Failed:
    return Failed(
        "", ErrorKind.USER, f"The queue could not be written to disk ({error}); free some space, then try again."
    )
