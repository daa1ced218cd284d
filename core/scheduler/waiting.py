"""What waits for the accelerator, and which of it is next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from core.messages import Request, WarmUp


class Waiting:
    """Requests and warm-ups in the order in which they will run. Any thread may call any method.

    A draft goes before everything, because somebody is typing; requests follow in the order in which they came; a
    model is warmed up when nothing else waits.
    """

    def __init__(self, taken: Callable[[Request | WarmUp], None] = lambda item: None) -> None:
        """`taken` is called with each item that leaves to be made, while nobody can look for it."""
        self._taken = taken
        self._changed = threading.Condition()
        self._drafts: deque[Request] = deque()
        self._requests: deque[Request] = deque()
        self._warm_up: WarmUp | None = None
        self._stopped = False

    def add(self, item: Request | WarmUp) -> None:
        """Put something in."""
        with self._changed:
            if isinstance(item, WarmUp):
                self._warm_up = item
            elif item.draft:
                self._drafts.append(item)
            else:
                self._requests.append(item)
            self._changed.notify()

    def remove(self, request_id: str) -> bool:
        """Take a waiting request out; False when it does not wait here."""
        with self._changed:
            for queue in (self._drafts, self._requests):
                for request in queue:
                    if request.id == request_id:
                        queue.remove(request)
                        return True
        return False

    def requests(self) -> list[Request]:
        """The requests that wait, in their order; drafts are not among them."""
        with self._changed:
            return list(self._requests)

    def take(self, request_ids: Sequence[str]) -> list[Request]:
        """Take waiting requests out, to be made now; those that wait no longer are left out."""
        with self._changed:
            taken = [request for request in self._requests if request.id in request_ids]
            for request in taken:
                self._requests.remove(request)
                self._taken(request)
            return taken

    def put_back(self, requests: Sequence[Request]) -> None:
        """Let requests wait again, before all others."""
        with self._changed:
            self._requests.extendleft(reversed(requests))
            self._changed.notify()

    def next(self) -> Request | WarmUp | None:
        """Wait for the next item and take it; None after `stop`."""
        with self._changed:
            while True:
                if self._stopped:
                    return None
                item = self._pop()
                if item is not None:
                    self._taken(item)
                    return item
                self._changed.wait()

    def _pop(self) -> Request | WarmUp | None:
        for queue in (self._drafts, self._requests):
            if queue:
                return queue.popleft()
        item, self._warm_up = self._warm_up, None
        return item

    def stop(self) -> None:
        """Let `next` return None from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
