"""Pinned host memory that slabs are staged in on their way to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch

from core.hardware.buffers import move
from core.hardware.interface import Accelerator, Event
from core.residency.slabs import Slab
from core.residency.store import HostStore

_MOST_PINNED_BYTES = 1 << 30  # of several slabs in one buffer
RING_BUFFERS = 2  # one is read into while the other is copied from


class Staging(Protocol):
    """Brings slabs into pinned memory. One thread uses it: the copier."""

    def stage(
        self, store: HostStore, slab: Slab, start: int = 0, stopped: Callable[[], bool] = lambda: False
    ) -> torch.Tensor:
        """The slab's bytes from `start` on, as far as one buffer goes; they stay until the event of `sent` happened.

        Raises what HostStore.fill does.
        """
        ...

    def sent(self, event: Event) -> None:
        """Say which event follows the copy of what was staged last."""
        ...


class Ring:
    """A few pinned buffers in turn. Host memory stays small, whatever the network's size."""

    def __init__(self, accelerator: Accelerator, largest: int, buffers: int = RING_BUFFERS) -> None:
        """`largest` is what must be copied at once, in bytes; buffers are powers of two, as allocators pin them."""
        size = _power_of_two(largest)
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

    def stage(
        self, store: HostStore, slab: Slab, start: int = 0, stopped: Callable[[], bool] = lambda: False
    ) -> torch.Tensor:
        """Read a slab, or the next part of it, into the next buffer once the copy from that one is over."""
        busy = self._busy[self._next]
        if busy is not None:
            busy.synchronize()
        buffer = self._buffers[self._next][: slab.size - start]
        store.fill(slab, buffer, start, stopped)
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
    """Some slabs pinned for good, the others through a ring: they are read only once, at the price of memory."""

    def __init__(self, accelerator: Accelerator, ring: Ring, store: HostStore, slabs: Iterable[Slab]) -> None:
        """`slabs` of a store are those that stay. Memory for them is taken when they come."""
        self._accelerator, self.ring, self._store = accelerator, ring, store
        self._buffers: list[torch.Tensor] = []
        self._places = _places([slab for slab in slabs if slab.size])
        self._filled: set[Slab] = set()
        self._through_ring = False

    @property
    def nbytes(self) -> int:
        """Host memory of the slabs that stay, once all have come."""
        return sum({place.buffer: place.buffer_bytes for place in self._places.values()}.values())

    def keeps(self, store: HostStore, slabs: Iterable[Slab]) -> bool:
        """Whether these are the slabs that stay."""
        return store is self._store and {slab for slab in slabs if slab.size} == set(self._places)

    def stage(
        self, store: HostStore, slab: Slab, start: int = 0, stopped: Callable[[], bool] = lambda: False
    ) -> torch.Tensor:
        """The slab, read the first time only, or what the ring takes of it."""
        place = self._places.get(slab) if store is self._store else None
        self._through_ring = place is None
        if place is None:
            return self.ring.stage(store, slab, start, stopped)
        while len(self._buffers) <= place.buffer:
            following = next(p for p in self._places.values() if p.buffer == len(self._buffers))
            self._buffers.append(self._accelerator.pinned(following.buffer_bytes))
        buffer = self._buffers[place.buffer][place.start : place.start + slab.size]
        if slab not in self._filled:
            store.fill(slab, buffer, 0, stopped)
            self._filled.add(slab)
        return buffer[start:]

    def sent(self, event: Event) -> None:
        """Only the ring waits for it."""
        if self._through_ring:
            self.ring.sent(event)


class HostedSlabs:
    """Some slabs in host memory for good, where it does not take all; the others are read from the disk each time.

    The system's cache cannot do that: weights that are read in the same order again and again push each other out of
    it, so that what is not kept here is kept out of it, too.
    """

    def __init__(self, ring: Ring, store: HostStore, slabs: Sequence[Slab], room: int) -> None:
        """`slabs` of a store are those that stay, as far as `room` bytes go. It is taken when they come."""
        self.ring, self._store = ring, store
        self._asked = frozenset(slab for slab in slabs if slab.size)
        self._slabs = frozenset(spread([slab for slab in slabs if slab.size], room))
        self._held: dict[Slab, torch.Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Host memory of the slabs that stay, once all have come."""
        return sum(slab.size for slab in self._slabs)

    def keeps(self, store: HostStore, slabs: Iterable[Slab]) -> bool:
        """Whether these are the slabs that were to stay."""
        return store is self._store and self._asked == {slab for slab in slabs if slab.size}

    def stage(
        self, store: HostStore, slab: Slab, start: int = 0, stopped: Callable[[], bool] = lambda: False
    ) -> torch.Tensor:
        """The slab, or the next part of it, in the ring."""
        if store is self._store and slab in self._slabs:
            if slab not in self._held:
                whole = torch.empty(slab.size, dtype=torch.uint8)
                store.fill(slab, whole, 0, stopped)
                self._held[slab] = whole
            return self.ring.stage(_Copies(self._held), slab, start, stopped)
        staged = self.ring.stage(store, slab, start, stopped)
        if start + staged.nbytes == slab.size:
            store.advise([slab], "DONTNEED")
        return staged

    def sent(self, event: Event) -> None:
        """See Ring."""
        self.ring.sent(event)


class _Copies(HostStore):
    """Slabs that are in host memory as they are."""

    def __init__(self, held: dict[Slab, torch.Tensor]) -> None:
        super().__init__({})
        self._held = held

    def fill(
        self, slab: Slab, target: torch.Tensor, start: int = 0, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Copy a part of it."""
        move(target, self._held[slab][start : start + target.numel()])


def spread(slabs: Sequence[Slab], size: int) -> list[Slab]:
    """Slabs of at most `size` bytes together, evenly spread: what is read between them is waited for less."""
    total = sum(slab.size for slab in slabs)
    chosen, taken, seen = list[Slab](), 0, 0
    for slab in slabs:
        seen += slab.size
        if taken + slab.size <= min(size, size * seen / max(1, total) + slab.size / 2):
            chosen.append(slab)
            taken += slab.size
    return chosen


class _Place(NamedTuple):
    buffer: int
    buffer_bytes: int
    start: int


def _places(slabs: Sequence[Slab]) -> dict[Slab, _Place]:
    """Slabs in buffers of powers of two, as allocators pin them: as many in each as fill it best, within limits."""
    places: dict[Slab, _Place] = {}
    number, first = 0, 0
    while first < len(slabs):
        ends = [0]
        for slab in slabs[first:]:
            if len(ends) > 1 and ends[-1] + slab.size > _MOST_PINNED_BYTES:
                break
            ends.append(ends[-1] + slab.size)
        count = max(range(1, len(ends)), key=lambda n: (ends[n] / _power_of_two(ends[n]), n))
        for slab, start in zip(slabs[first : first + count], ends, strict=False):
            places[slab] = _Place(number, _power_of_two(ends[count]), start)
        number, first = number + 1, first + count
    return places


def _power_of_two(size: int) -> int:
    """The smallest one that is not smaller."""
    return 1 << max(0, size - 1).bit_length()
