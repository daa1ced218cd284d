"""What the client needs of an engine, wherever that engine runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from core.messages import Command, ErrorKind, Event


class OnExit(Protocol):
    """Told once that the engine ended: why, and whose fault it is."""

    def __call__(self, reason: str, kind: ErrorKind = ErrorKind.INTERNAL) -> None: ...


class Transport(Protocol):
    """A running engine: takes commands, gives events, and says once how it ended."""

    def start(self, on_event: Callable[[Event], None], on_exit: OnExit) -> None:
        """Start the engine. `on_event` is called from a thread of the transport, `on_exit` once, whatever happened."""

    def send(self, command: Command) -> None:
        """Hand a command over without waiting for the engine; silently dropped once it has ended.

        Raises:
            UnicodeEncodeError, OverflowError: it holds what cannot be encoded.
        """

    def stop(self) -> None:
        """End the engine and wait until it is gone."""
