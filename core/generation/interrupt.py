"""Stopping a run between two blocks of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from core.residency.blocks import blocks

_REQUEST: ContextVar[str] = ContextVar("request", default="")


class Interrupted(Exception):
    """The person who asked for the run asked for it to stop."""


class Interrupt:
    """What is to stop: any thread may say so, and the blocks of watched networks look before they run."""

    def __init__(self) -> None:
        self._everything = False
        self._stopped: set[str] = set()

    def set(self, request: str = "") -> None:
        """Stop one request at its next block, or everything."""
        if request:
            self._stopped.add(request)
        else:
            self._everything = True

    def clear(self, request: str = "") -> None:
        """Forget that a request was to stop, or that everything was."""
        if request:
            self._stopped.discard(request)
        else:
            self._everything = False

    def check(self, *_: Any) -> None:
        """Raise Interrupted if what runs now should stop."""
        if self._everything or _REQUEST.get() in self._stopped:
            raise Interrupted

    def watch(self, module: nn.Module) -> None:
        """Check before each block of this network, for as long as it lives."""
        for block in blocks(module):
            block.register_forward_pre_hook(self.check)


@contextmanager
def on_behalf_of(request: str) -> Iterator[None]:
    """What runs within the `with` runs for this request."""
    token = _REQUEST.set(request)
    try:
        yield
    finally:
        _REQUEST.reset(token)
