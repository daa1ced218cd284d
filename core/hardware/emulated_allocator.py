"""Device memory that runs out as CUDA's caching allocator lets it, for the emulated card."""

from __future__ import annotations

import threading
from collections import Counter

import torch

from core.hardware import segments
from core.hardware.caching import Block, Caching

_MIB = 1024 * 1024


class Allocator(Caching):
    """Device memory of `capacity` bytes. Any thread may call any method."""

    def __init__(self, capacity: int, largest: int | None = None) -> None:
        """`largest` is the most that one allocation may have, if the driver has such a limit."""
        super().__init__()
        self.capacity = capacity
        self.largest = largest
        self.taken_by_others = 0
        self.limit = capacity  # the most that it may take from the driver
        self._lock = threading.Lock()

    def allocate(self, size: int, owner: str) -> Block:
        """A block of at least `size` bytes.

        Raises:
            torch.OutOfMemoryError: it is not there, or is more than one allocation may have.
        """
        with self._lock:
            if self.largest is not None and segments.block_bytes(size) > self.largest:
                raise torch.OutOfMemoryError(
                    f"emulated device out of memory: one allocation may have {_mib(self.largest)}, not {_mib(size)}"
                )
            block = self.take(size, min(self.limit, self.capacity - self.taken_by_others), owner)
            if block is None:
                raise torch.OutOfMemoryError(
                    f"emulated device out of memory: tried to allocate {_mib(size)}; of {_mib(self.capacity)}, "
                    f"{_mib(self.allocated)} are allocated, {_mib(self.reserved - self.allocated)} reserved but "
                    f"unallocated and {_mib(self.taken_by_others)} taken by other programs"
                )
            return block

    def free(self, block: Block) -> None:
        """Give a block back; it stays reserved."""
        with self._lock:
            self.give_back(block)

    def release_cached(self) -> None:
        """Give segments that hold nothing back to the driver."""
        with self._lock:
            self.release_free()

    def reset_peaks(self) -> None:
        """Start counting peaks anew."""
        with self._lock:
            super().reset_peaks()

    def by_owner(self) -> dict[str, int]:
        """Bytes that were asked for and are held now, by owner."""
        count: Counter[str] = Counter()
        with self._lock:
            for segment in self._segments:
                for block in segment.blocks:
                    if not block.free:
                        count[block.owner] += block.asked
        return dict(count)


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
