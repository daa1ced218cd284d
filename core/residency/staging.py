"""Pinned host memory that slabs are staged in on their way to the device."""

from __future__ import annotations

from typing import Protocol

import torch

from core.hardware.interface import Accelerator, Event
from core.residency.slabs import Slab
from core.residency.store import HostStore

RING_BUFFERS = 2  # one is read into while the other is copied from


class Staging(Protocol):
    """Brings slabs into pinned memory. One thread uses it: the copier."""

    def stage(self, store: HostStore, slab: Slab, start: int = 0) -> torch.Tensor:
        """The slab's bytes from `start` on, as far as one buffer goes; they stay until the event of `sent` happened."""
        ...

    def sent(self, event: Event) -> None:
        """Say which event follows the copy of what was staged last."""
        ...


class Ring:
    """A few pinned buffers in turn. Host memory stays small, whatever the network's size."""

    def __init__(self, accelerator: Accelerator, largest: int, buffers: int = RING_BUFFERS) -> None:
        """`largest` is what must be copied at once, in bytes; buffers are powers of two, as allocators pin them."""
        size = 1 << max(0, largest - 1).bit_length()
        self._accelerator = accelerator
        self._buffers = [accelerator.pinned(size) for _ in range(buffers)]
        self._busy: list[Event | None] = [None] * buffers
        self._next = 0

    @property
    def nbytes(self) -> int:
        """Host memory of the ring."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def takes(self, largest: int) -> bool:
        """Whether slabs of so many bytes fit."""
        return largest <= self._buffers[0].nbytes

    def stage(self, store: HostStore, slab: Slab, start: int = 0) -> torch.Tensor:
        """Read a slab, or the next part of it, into the next buffer once the copy from that one is over."""
        busy = self._busy[self._next]
        if busy is not None:
            busy.synchronize()
        buffer = self._buffers[self._next][: slab.size - start]
        store.fill(slab, buffer, start)
        return buffer

    def sent(self, event: Event) -> None:
        """The next buffer's turn."""
        self._busy[self._next] = event
        self._next = (self._next + 1) % len(self._buffers)

    def rest(self) -> None:
        """Nothing is in flight any more and nobody will read what is in the buffers."""
        self._busy = [None] * len(self._buffers)
        for buffer in self._buffers:
            self._accelerator.discard(buffer)


class PinnedSlabs:
    """Every slab pinned for good: no staging after its first time, at the price of the network's size in memory."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._slabs: dict[str, torch.Tensor] = {}

    def stage(self, store: HostStore, slab: Slab, start: int = 0) -> torch.Tensor:
        """The slab, read the first time only."""
        if slab.name not in self._slabs:
            buffer = self._accelerator.pinned(slab.size)
            store.fill(slab, buffer)
            self._slabs[slab.name] = buffer
        return self._slabs[slab.name][start:]

    def sent(self, event: Event) -> None:
        """Nothing waits for it."""
