"""Stopping a run between two blocks of a network."""

from __future__ import annotations

import threading
from typing import Any

from torch import nn

from core.residency.blocks import blocks


class Interrupted(Exception):
    """The person who asked for the run asked for it to stop."""


class Interrupt:
    """A flag that any thread may raise, and that the blocks of watched networks check before they run."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def set(self) -> None:
        """Stop the run at the next block."""
        self._flag.set()

    def clear(self) -> None:
        """Begin a run that nobody wants stopped yet."""
        self._flag.clear()

    def check(self, *_: Any) -> None:
        """Raise Interrupted if the run should stop."""
        if self._flag.is_set():
            raise Interrupted

    def watch(self, module: nn.Module) -> None:
        """Check before each block of this network, for as long as it lives."""
        for block in blocks(module):
            block.register_forward_pre_hook(self.check)
