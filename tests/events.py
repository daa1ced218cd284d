"""Waiting for an engine's events."""

from __future__ import annotations

import time
from typing import TypeVar

from core.engine.client import Client
from core.messages import EngineStopped, Event, Failed, Finished, Result

T = TypeVar("T")


def wait_for(engine: Client, kind: type[T], *, seconds: float = 120.0, seen: list[Event] | None = None) -> T:
    """The next event of a kind; events before it go to `seen`. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        event = engine.next_event(left)
        if event is None:
            break
        if seen is not None:
            seen.append(event)
        if isinstance(event, kind):
            return event
        if isinstance(event, Failed) and kind is not Failed:
            raise AssertionError(f"{event.sentence}\n{event.details}")
        if isinstance(event, EngineStopped) and not event.expected and not event.will_restart:
            raise AssertionError(event.reason)
    raise AssertionError(f"no {kind.__name__} within {seconds} s")


def result_of(engine: Client, request_id: str, *, seen: list[Event] | None = None) -> Result:
    """Wait until a request is finished."""
    while True:
        event = wait_for(engine, Finished, seen=seen)
        if event.id == request_id:
            return event.result
