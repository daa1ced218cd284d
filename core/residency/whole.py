"""A network on a device that shares the host's memory: it is there, whole, or it is not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from torch import nn

from core.residency.network import Note
from core.residency.staging import Staging


class Whole:
    """A network that was read into the memory that kernels read; see Network for what the methods mean."""

    link_bytes = 0
    streamed_bytes = 0
    folding = None
    folded_bytes = 0
    give_way: Callable[[str], bool] | None = None

    def __init__(self, name: str, module: nn.Module, note: Note) -> None:
        self.name, self.module, self._note = name, module, note
        tensors = [*module.parameters(), *module.buffers()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        self.size = sum(storages.values())  # shared storage counted once
        self.held_bytes = 0
        self.largest = 0

    def resident_of(self, counts: object, slots: int, room: int) -> set[int]:
        """There is nothing to choose."""
        return set()

    def needed_bytes(self, resident: Collection[int], slots: int) -> int:
        """Its bytes, unless it is there."""
        return self.size - self.held_bytes

    def place(self, resident: Collection[int], slots: int, reason: str = "needed by the phase") -> None:
        """Note that it is there."""
        if not self.held_bytes:
            self.held_bytes = self.size
            self._note(self.name, self.size, reason)

    def keep(self, size: int, reason: str) -> None:
        """Let it go unless all of it may stay; who asked drops the module then."""
        if self.held_bytes > size:
            self._note(self.name, -self.held_bytes, reason)
            self.held_bytes = 0

    @contextmanager
    def running(
        self, staging: Staging, passes: int | None = None, after: threading.Event | None = None
    ) -> Iterator[None]:
        """Nothing has to come."""
        yield

    def free_slots(self) -> None:
        """There are none."""

    def move(self, resident: Collection[int], slots: int, reason: str) -> None:
        """It cannot be anywhere else."""

    def ready(self) -> None:
        """It is."""
