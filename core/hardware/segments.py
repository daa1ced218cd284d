"""How CUDA's caching allocator rounds: from a request to the block and to the segment that it is cut from. No torch.

The constants and rules are those of c10/cuda/CUDACachingAllocator.cpp (torch 2.x), which serves ROCm too: sizes are
rounded up to 512 bytes; requests up to 1 MiB are cut from segments of 2 MiB, those below 10 MiB from segments of
20 MiB, larger ones get a segment of their own, rounded up to 2 MiB. Free blocks serve the requests that they fit best.
"""

from __future__ import annotations

_MIB = 1024 * 1024
_ROUNDING = 512
_SMALL_SIZE = _MIB
_SMALL_SEGMENT = 2 * _MIB
_MIN_LARGE = 10 * _MIB
_LARGE_SEGMENT = 20 * _MIB
_LARGE_ROUNDING = 2 * _MIB


def block_bytes(size: int) -> int:
    """Bytes of the block that a request gets."""
    return max(_ROUNDING, -(-size // _ROUNDING) * _ROUNDING)


def is_small(size: int) -> bool:
    """Whether it is cut from the segments for small requests."""
    return size <= _SMALL_SIZE


def segment_bytes(size: int) -> int:
    """Bytes of the segment that is taken from the driver for a request that no free block can serve."""
    if size <= _SMALL_SIZE:
        return _SMALL_SEGMENT
    return _LARGE_SEGMENT if size < _MIN_LARGE else -(-size // _LARGE_ROUNDING) * _LARGE_ROUNDING


def is_shared(size: int) -> bool:
    """Whether its segment may serve other requests besides."""
    return size < _MIN_LARGE


def worth(rest: int, *, small: bool) -> bool:
    """Whether what a request leaves of a block is cut off for others to use."""
    return rest >= _ROUNDING if small else rest > _SMALL_SIZE
