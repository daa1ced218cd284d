"""The client: keeps an engine alive, keeps every request until it is done, and turns all that happens into events.

It has the same face whether the engine is a child process (`EngineClient`) or a thread (`core.engine.InProcessEngine`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from core import folders
from core.engine.process import ChildProcess
from core.engine.transport import Transport
from core.library import metadata
from core.library.queue import Job, JobQueue, State
from core.messages import (
    Cancel,
    Cancelled,
    EngineStarting,
    EngineStopped,
    ErrorKind,
    Event,
    Failed,
    Finished,
    Ready,
    Request,
    SetAside,
    Started,
    Submit,
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
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._transport: Transport | None = None
        self._drafts: dict[str, Request] = {}
        self._running: str = ""
        self._attempt = 0
        self._failed_starts = 0
        self._warm_model = ""
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
        """Queue a request. A draft supersedes every draft before it and is not kept on disk."""
        with self._lock:
            if request.draft:
                for older in list(self._drafts):
                    self.cancel(older)
                self._drafts[request.id] = request
            else:
                self._jobs.add(request)
            self._send(Submit(request))

    def cancel(self, request_id: str) -> None:
        """Drop a waiting request or stop the running one. `Cancelled` follows, unless it finished first."""
        with self._lock:
            if self._transport is not None:
                self._send(Cancel(request_id))
            else:
                self._forget(request_id)
                self._events.put(Cancelled(request_id))

    def retry(self, request_id: str) -> None:
        """Queue a failed or set-aside request once more."""
        with self._lock:
            job = self._jobs.get(request_id)
            if job is not None and job.state in (State.FAILED, State.SET_ASIDE):
                self._jobs.remove(request_id)
                self.submit(job.request)

    def warm_up(self, model: str) -> None:
        """Ask the engine to load a model now; asked again by itself after a restart."""
        with self._lock:
            self._warm_model = model
            self._send(WarmUp(model))

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event, in order; None when none came within `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

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
        if self._warm_model:
            transport.send(WarmUp(self._warm_model))
        for job in self._jobs.jobs(State.WAITING):
            transport.send(Submit(job.request))
        for request in self._drafts.values():
            transport.send(Submit(request))

    def _on_exit(self, reason: str) -> None:
        with self._lock:
            self._transport = None
            if self._closing:
                self._events.put(EngineStopped(True))
                return
            self._failed_starts += 1
            again = self._failed_starts < MAX_FAILED_STARTS
            self._events.put(EngineStopped(False, reason, again))
            self._after_death(reason)
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
        running, self._running = self._running, ""
        if running in self._drafts:
            del self._drafts[running]
            self._events.put(Failed(running, ErrorKind.INTERNAL, f"The draft was lost: {reason}."))
        elif running and (job := self._jobs.get(running)) is not None:
            self._recover(job, died=True, reason=reason)

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
            match event:
                case Ready():
                    self._failed_starts = 0
                case Started(id=request_id):
                    self._running = request_id
                    self._jobs.set_state(request_id, State.RUNNING)
                case Finished(id=request_id) | Cancelled(id=request_id):
                    self._forget(request_id)
                case Failed(id=request_id, sentence=sentence):
                    self._running = ""
                    if self._drafts.pop(request_id, None) is None:
                        self._jobs.set_state(request_id, State.FAILED, sentence)
                case _:
                    pass
        self._events.put(event)

    def _forget(self, request_id: str) -> None:
        if self._running == request_id:
            self._running = ""
        if self._drafts.pop(request_id, None) is None:
            self._jobs.remove(request_id)

    def _send(self, command: Submit | Cancel | WarmUp) -> None:
        if self._transport is not None:
            self._transport.send(command)


class EngineClient(Client):
    """The engine in a child process of its own: a fault of the driver takes the engine, never the prompt."""

    def __init__(self, jobs: JobQueue | None = None, log: Path | None = None) -> None:
        """Keep the queue and the log in the user's folders, unless given others."""
        log_file = log or folders.logs() / "engine.log"
        super().__init__(lambda: ChildProcess(log_file), jobs or JobQueue(folders.data() / "queue.sqlite"))
