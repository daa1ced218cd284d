"""An account of a caching allocator: segments from the driver, cut into blocks, joined and kept when freed. No torch.

It gives out places, not bytes. How sizes are rounded is in core.hardware.segments. Freed blocks are joined with free
neighbours and kept; when the driver has no more, free segments are given back to it and the request is tried once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from core.hardware import segments


@dataclass(eq=False)
class Segment:
    """A range that the driver gave: its blocks in the order of their addresses."""

    small: bool
    size: int
    blocks: list[Block] = field(default_factory=list)


@dataclass(eq=False)
class Block:
    """A part of a segment; `asked` bytes of its `size` were asked for."""

    segment: Segment
    size: int
    asked: int = 0
    owner: str = ""
    free: bool = True


class Caching:
    """Segments of device memory and what is cut from them. One thread at a time may use it."""

    def __init__(self) -> None:
        self.allocated = 0
        self.reserved = 0
        self.peak_allocated = 0
        self.peak_reserved = 0
        self._segments: list[Segment] = []

    def take(self, size: int, room: int, owner: str = "") -> Block | None:
        """A block of at least `size` bytes; None where the driver would have to give more than `room` in all."""
        rounded = segments.block_bytes(size)
        block = self._find(rounded) or self._grow(rounded, room)
        if block is None:
            self.release_free()
            block = self._grow(rounded, room)
        if block is None:
            return None
        self._split(block, rounded)
        block.free, block.asked, block.owner = False, size, owner
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def give_back(self, block: Block) -> None:
        """Free a block; it stays reserved."""
        assert not block.free
        block.free, block.asked, block.owner = True, 0, ""
        self.allocated -= block.size
        blocks = block.segment.blocks
        place = blocks.index(block)
        for neighbour in (blocks[place + 1 : place + 2], blocks[place - 1 : place] if place else []):
            if neighbour and neighbour[0].free:
                block.size += neighbour[0].size
                blocks.remove(neighbour[0])

    def release_free(self) -> None:
        """Give segments that hold nothing back to the driver."""
        for segment in [segment for segment in self._segments if all(block.free for block in segment.blocks)]:
            self._segments.remove(segment)
            self.reserved -= segment.size

    def reset_peaks(self) -> None:
        """Start counting peaks anew."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

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

    def _grow(self, size: int, room: int) -> Block | None:
        """A new segment as one block, if the driver has the bytes."""
        whole = self._segment_bytes(size)
        if self.reserved + whole > room:
            return None
        segment = Segment(self._is_small(size), whole)
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

    def _worth(self, rest: int, segment: Segment) -> bool:
        """Whether a rest is cut off for others to use."""
        return segments.worth(rest, small=segment.small)
