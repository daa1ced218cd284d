"""For which allocations of a pass a device's allocator would have to ask the driver for more memory."""

from __future__ import annotations

from collections.abc import Callable

from core.hardware.emulated_allocator import Allocator


class Growth:
    """An allocator that keeps what is freed and cuts it up for others, but rounds nothing.

    So what it asks for scales with the pictures' size; how drivers round is for who plans (core.planning.reserve).
    """

    def __init__(self) -> None:
        self.allocated: list[int] = []
        self.grew: list[int] = []
        self._elastic = _Elastic(1 << 62)

    def take(self, size: int) -> Callable[[], None]:
        """Allocate; returns what frees."""
        before = self._elastic.reserved
        block = self._elastic.allocate(size, "")
        if self._elastic.reserved > before:
            self.grew.append(len(self.allocated))
        self.allocated.append(size)
        return lambda: self._elastic.free(block)


class _Elastic(Allocator):
    """Segments exactly as large as what was asked for, of which every rest can be used."""

    def _is_small(self, size: int) -> bool:
        return False

    def _segment_bytes(self, size: int) -> int:
        return size

    def _worth(self, rest: int, segment: object) -> bool:
        return rest > 0
