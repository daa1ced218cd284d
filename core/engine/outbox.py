"""Events on their way out: in order, bounded, and with only the newest preview kept."""

from __future__ import annotations

import threading
from collections import deque

from core.messages import Event, Heartbeat, Preview, Progress

# When the reader is this far behind, producers of what may not be dropped wait for it.
CAPACITY = 1000


class Outbox:
    """A queue of events between the threads that make them and the one that writes them."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._closed = False

    def put(self, event: Event) -> None:
        """Queue an event. Only the newest preview is kept; a heartbeat or a step replaces one just before it."""
        with self._changed:
            if isinstance(event, Preview):
                self._events = deque(other for other in self._events if not isinstance(other, Preview))
                self._events.append(event)
            elif self._events and _replaces(event, self._events[-1]):
                self._events[-1] = event
            else:
                while len(self._events) >= self._capacity and not self._closed:
                    self._changed.wait()
                self._events.append(event)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> Event | None:
        """Wait for the next event; None once the outbox is closed and empty, or after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._closed, timeout)
            if not self._events:
                return None
            event = self._events.popleft()
            self._changed.notify_all()
            return event

    def close(self) -> None:
        """Let `get` return None when everything queued is out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _replaces(event: Event, last: Event) -> bool:
    """Whether nobody needs `last` once there is `event`."""
    if isinstance(event, Progress) and isinstance(last, Progress):
        return (event.id, event.phase, event.note) == (last.id, last.phase, last.note)
    return isinstance(event, Heartbeat) and isinstance(last, Heartbeat)
