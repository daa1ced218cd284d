"""What the client needs of an engine, wherever that engine runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from core.messages import Command, Event


class Transport(Protocol):
    """A running engine: takes commands, gives events, and says once how it ended."""

    def start(self, on_event: Callable[[Event], None], on_exit: Callable[[str], None]) -> None:
        """Start the engine. `on_event` is called from a thread of the transport, `on_exit` once with the reason."""

    def send(self, command: Command) -> None:
        """Hand a command over without waiting for the engine; silently dropped once it has ended."""

    def stop(self) -> None:
        """End the engine and wait until it is gone."""
