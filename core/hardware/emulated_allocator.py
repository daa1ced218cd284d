"""An account of device memory that rounds, splits, keeps and runs out as CUDA's caching allocator does.

It gives out places, not bytes. How sizes are rounded is in core.hardware.segments. Freed blocks are joined with free
neighbours and kept; when the driver has no more, free segments are given back to it and the request is tried once more.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

import torch

from core.hardware import segments

_MIB = 1024 * 1024


@dataclass(eq=False)
class _Segment:
    """A range that the driver gave: its blocks in the order of their addresses."""

    small: bool
    size: int
    blocks: list[Block] = field(default_factory=list)


@dataclass(eq=False)
class Block:
    """A part of a segment; `asked` bytes of its `size` were asked for."""

    segment: _Segment
    size: int
    asked: int = 0
    owner: str = ""
    free: bool = True


class Allocator:
    """Device memory of `capacity` bytes. Any thread may call any method."""

    def __init__(self, capacity: int, largest: int | None = None) -> None:
        """`largest` is the most that one allocation may have, if the driver has such a limit."""
        self.capacity = capacity
        self.largest = largest
        self.taken_by_others = 0
        self.limit = capacity  # the most that it may take from the driver
        self.allocated = 0
        self.reserved = 0
        self.peak_allocated = 0
        self.peak_reserved = 0
        self._segments: list[_Segment] = []
        self._lock = threading.Lock()

    def allocate(self, size: int, owner: str) -> Block:
        """A block of at least `size` bytes.

        Raises:
            torch.OutOfMemoryError: it is not there, or is more than one allocation may have.
        """
        rounded = segments.block_bytes(size)
        with self._lock:
            if self.largest is not None and rounded > self.largest:
                raise torch.OutOfMemoryError(
                    f"emulated device out of memory: one allocation may have {_mib(self.largest)}, not {_mib(size)}"
                )
            block = self._find(rounded) or self._grow(rounded)
            if block is None:
                self._release_free_segments()
                block = self._grow(rounded)
            if block is None:
                raise torch.OutOfMemoryError(
                    f"emulated device out of memory: tried to allocate {_mib(size)}; of {_mib(self.capacity)}, "
                    f"{_mib(self.allocated)} are allocated, {_mib(self.reserved - self.allocated)} reserved but "
                    f"unallocated and {_mib(self.taken_by_others)} taken by other programs"
                )
            self._split(block, rounded)
            block.free, block.asked, block.owner = False, size, owner
            self.allocated += block.size
            self.peak_allocated = max(self.peak_allocated, self.allocated)
            return block

    def free(self, block: Block) -> None:
        """Give a block back; it stays reserved."""
        with self._lock:
            assert not block.free
            block.free, block.asked, block.owner = True, 0, ""
            self.allocated -= block.size
            blocks = block.segment.blocks
            place = blocks.index(block)
            for neighbour in (blocks[place + 1 : place + 2], blocks[place - 1 : place] if place else []):
                if neighbour and neighbour[0].free:
                    block.size += neighbour[0].size
                    blocks.remove(neighbour[0])

    def release_cached(self) -> None:
        """Give segments that hold nothing back to the driver."""
        with self._lock:
            self._release_free_segments()

    def reset_peaks(self) -> None:
        """Start counting peaks anew."""
        with self._lock:
            self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def by_owner(self) -> dict[str, int]:
        """Bytes that were asked for and are held now, by owner."""
        count: Counter[str] = Counter()
        with self._lock:
            for segment in self._segments:
                for block in segment.blocks:
                    if not block.free:
                        count[block.owner] += block.asked
        return dict(count)

    # ---------------------------------------------------------------------------------------------------------------

    def _find(self, size: int) -> Block | None:
        """The smallest free block that is large enough."""
        small = self._is_small(size)
        fitting = (
            block
            for segment in self._segments
            if segment.small == small
            for block in segment.blocks
            if block.free and block.size >= size
        )
        return min(fitting, key=lambda block: block.size, default=None)

    def _grow(self, size: int) -> Block | None:
        """A new segment as one block, if the driver has the bytes."""
        whole = self._segment_bytes(size)
        if self.reserved + whole > min(self.limit, self.capacity - self.taken_by_others):
            return None
        segment = _Segment(self._is_small(size), whole)
        segment.blocks.append(Block(segment, whole))
        self._segments.append(segment)
        self.reserved += whole
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return segment.blocks[0]

    def _split(self, block: Block, size: int) -> None:
        """Cut off what is not needed, unless it is too little to be worth it."""
        rest = block.size - size
        if self._worth(rest, block.segment):
            blocks = block.segment.blocks
            blocks.insert(blocks.index(block) + 1, Block(block.segment, rest))
            block.size = size

    # The driver's rules, which another allocator may have otherwise.

    def _is_small(self, size: int) -> bool:
        """Whether a request is cut from the segments for small ones."""
        return segments.is_small(size)

    def _segment_bytes(self, size: int) -> int:
        """Bytes of the segment that is taken for a request that no free block can serve."""
        return segments.segment_bytes(size)

    def _worth(self, rest: int, segment: _Segment) -> bool:
        """Whether a rest is cut off for others to use."""
        return segments.worth(rest, small=segment.small)

    def _release_free_segments(self) -> None:
        for segment in [segment for segment in self._segments if all(block.free for block in segment.blocks)]:
            self._segments.remove(segment)
            self.reserved -= segment.size


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
