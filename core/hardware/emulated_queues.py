"""The queues and events of an emulated card: each queue is a thread that does real work at modelled times."""

from __future__ import annotations

import atexit
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from core.hardware.emulated_timeline import Timeline
from core.hardware.interface import Event, EventNotRecordedError

_workers: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _end_threads() -> None:
    """A thread that the interpreter ends in the middle of torch's code takes the process down with it."""
    workers = list(_workers)
    for worker in workers:
        worker.close()
    for worker in workers:
        worker.join(2.0)


@dataclass(eq=False)
class Ticket:
    """One recording of an event: `at` is its modelled moment once `done` is set."""

    done: threading.Event = field(default_factory=threading.Event)
    at: float = 0.0

    def wait(self) -> None:
        """Sleep until it happened, in slices, because Windows lets nobody interrupt an endless wait."""
        while not self.done.wait(0.2):
            pass


class EmulatedEvent:
    """An event that may be recorded again and again; who waits, waits for the newest recording."""

    def __init__(self, dilation: float) -> None:
        self._dilation = dilation
        self._ticket: Ticket | None = None

    @property
    def recorded(self) -> bool:
        """Whether a queue has been asked to record it."""
        return self._ticket is not None

    def query(self) -> bool:
        """Whether the queue has come past it."""
        return self.ticket().done.is_set()

    def synchronize(self) -> None:
        """Wait until the queue has come past it."""
        self.ticket().wait()

    def seconds_since(self, earlier: Event) -> float:
        """Modelled seconds between two events."""
        assert isinstance(earlier, EmulatedEvent)
        mine, other = self.ticket(), earlier.ticket()
        if not (mine.done.is_set() and other.done.is_set()):
            raise RuntimeError("both events must have happened before the time between them is asked for")
        return (mine.at - other.at) / self._dilation

    def ticket(self) -> Ticket:
        """The newest recording."""
        if self._ticket is None:
            raise EventNotRecordedError
        return self._ticket

    def renew(self) -> Ticket:
        """A new recording."""
        self._ticket = Ticket()
        return self._ticket


@dataclass
class Operation:
    """Work in a queue: `start` when it begins, `body` while it runs, `end` when its modelled time is over.

    `seconds` is its modelled time without anything beside it; None for as long as `body` takes.
    """

    seconds: float | None
    body: Callable[[], object] | None = None
    start: Callable[[], object] | None = None
    end: Callable[[], object] | None = None
    enqueued: float = 0.0


@dataclass(frozen=True)
class _Record:
    ticket: Ticket
    enqueued: float


class Worker:
    """A queue's thread. It starts with the first operation and ends with `close`."""

    def __init__(self, name: str, lane: int, timeline: Timeline, *, jitter: float, dilation: float, seed: int) -> None:
        self._name = name
        self._lane = lane
        self._timeline = timeline
        self._jitter = jitter
        self._dilation = dilation
        self._chance = random.Random(f"{seed}/{name}")
        self._items: queue.SimpleQueue[Operation | _Record | Ticket | None] = queue.SimpleQueue()
        self._changing = threading.RLock()  # the collector may close a card at any line
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._closed = False
        self._free_at = 0.0  # the modelled moment at which everything taken so far is done
        self.lag_seconds = 0.0  # the most that real time was behind modelled time at the end of an operation
        _workers.add(self)

    def put(self, operation: Operation) -> None:
        """Enqueue an operation."""
        self.check()
        if operation.seconds:
            operation.seconds *= self._dilation
            if self._jitter:
                operation.seconds *= self._chance.lognormvariate(0.0, self._jitter)
        operation.enqueued = time.monotonic()
        self._put(operation)

    def record(self, ticket: Ticket) -> None:
        """Enqueue a mark."""
        self._put(_Record(ticket, time.monotonic()))

    def wait(self, ticket: Ticket) -> None:
        """Let what is enqueued from now on wait for a mark, of this queue or another."""
        self._put(ticket)

    def synchronize(self) -> None:
        """Wait for everything enqueued. Raises RuntimeError when something in the queue failed, now or earlier."""
        if self._thread is not None and not self._closed:
            ticket = Ticket()
            self.record(ticket)
            ticket.wait()
        self.check()

    def close(self) -> None:
        """Let the thread end when it has done what it has."""
        with self._changing:
            if not self._closed:
                self._closed = True
                self._items.put(None)

    def join(self, seconds: float) -> None:
        """Wait so long for the thread to end."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _put(self, item: Operation | _Record | Ticket) -> None:
        with self._changing:
            if self._closed:
                raise RuntimeError("the emulated card was closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"emulated {self._name}", daemon=True)
                self._thread.start()
            self._items.put(item)

    def check(self) -> None:
        """Raise RuntimeError when something in the queue failed."""
        if self._error is not None:
            raise RuntimeError(f"the emulated {self._name} queue failed: {self._error}") from self._error

    # -- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._take(self._items.get()):  # no name here for the item: it would keep tensors alive while this waits
            pass

    def _take(self, item: Operation | _Record | Ticket | None) -> bool:
        match item:
            case Operation():
                self._do(item)
            case _Record(ticket=ticket, enqueued=enqueued):
                ticket.at = max(self._free_at, enqueued)
                ticket.done.set()
            case Ticket():
                item.done.wait()
                self._free_at = max(self._free_at, item.at)
        return item is not None

    def _do(self, operation: Operation) -> None:
        begin = max(self._free_at, operation.enqueued)
        seconds = operation.seconds
        self._timeline.begin(self._lane, begin, float("inf") if seconds is None else seconds)
        started = time.monotonic()
        self._call(operation.start)
        self._call(operation.body)
        if seconds is None:
            self._free_at = self._timeline.finish_at(self._lane, begin + time.monotonic() - started)
        else:
            self._free_at = self._timeline.finish(self._lane)
        self._call(operation.end)
        self.lag_seconds = max(self.lag_seconds, time.monotonic() - self._free_at)

    def _call(self, function: Callable[[], object] | None) -> None:
        """A failure is kept for whoever synchronizes, as a device keeps its; what follows is not done any more."""
        if function is None or self._error is not None:
            return
        try:
            function()
        except BaseException as error:  # nothing may end this thread: others wait for its marks
            self._error = error


@contextmanager
def inside(worker: Worker, seconds: float | None) -> Iterator[None]:
    """Run the `with` in its turn as an operation of a queue, but in this thread; its modelled end is not waited for."""
    entered, left = threading.Event(), threading.Event()

    def hand_over() -> None:
        entered.set()
        left.wait()

    worker.put(Operation(seconds, hand_over))
    try:
        while not entered.wait(0.2):
            worker.check()
        yield
    finally:
        left.set()
