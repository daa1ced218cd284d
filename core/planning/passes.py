"""One network's passes: which blocks are streamed, what an ideal streamer needs, and with how many slots."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

MOST_SLOTS = 3
# A slot costs memory that resident blocks could have; it must save at least this share of a pass.
_WORTH = 0.01
_SETTLING_PASSES = 4


def steady_seconds(
    copies: Sequence[float], kernels: Sequence[float], slots: int, outside: float = 0.0, passes: int = 12
) -> float:
    """Seconds of one pass once it has settled (the mean over later passes), without jitter and latencies.

    First in, first out: a copy waits for the copy before it and for the kernel that frees its slot, a kernel for the
    kernel before it and for its copy. Behind the last block comes the first.

    Args:
        copies: seconds of each block's copy; 0 for a resident block.
        kernels: seconds of each block's kernels.
        outside: seconds of kernels at the end of a pass that need no block.
    """
    free: deque[float] = deque([0.0] * slots)
    copy_end = kernel_end = 0.0
    marks = []
    for _ in range(passes):
        for copy, kernel in zip(copies, kernels, strict=True):
            if copy:
                copy_end = max(copy_end, free.popleft()) + copy
                kernel_end = max(kernel_end, copy_end) + kernel
                free.append(kernel_end)
            else:
                kernel_end += kernel
        kernel_end += outside
        marks.append(kernel_end)
    settled = min(_SETTLING_PASSES, passes - 1)
    return (marks[-1] - marks[settled]) / (passes - 1 - settled) if passes > settled + 1 else marks[-1]


def bound_seconds(copies: Sequence[float], kernels: Sequence[float], outside: float = 0.0) -> float:
    """What no streamer can beat: all copies, or all kernels, whichever takes longer."""
    return max(sum(copies), sum(kernels) + outside)


def slots_worth(copies: Sequence[float], kernels: Sequence[float], outside: float = 0.0) -> int:
    """The fewest slots, at most MOST_SLOTS, with which a pass is as good as with more; none without streamed blocks.

    Two at least where two blocks are streamed: with one, every jitter is paid in full.
    """
    streamed = sum(copy > 0 for copy in copies)
    if not streamed:
        return 0
    seconds = {slots: steady_seconds(copies, kernels, slots, outside) for slots in range(1, MOST_SLOTS + 1)}
    best = min(seconds.values())
    return next(slots for slots in seconds if slots >= min(2, streamed) and seconds[slots] <= best * (1 + _WORTH))


def streamed_positions(blocks: Sequence[int], resident: Sequence[int], *, spread: bool = True) -> list[bool]:
    """Which blocks of a pass are streamed, in execution order.

    Args:
        blocks: for each block in execution order the index of its size.
        resident: how many blocks of each size are resident.
        spread: whether streamed blocks lie evenly among resident ones, or all at the end.
    """
    counts: dict[int, int] = {}
    for size in blocks:
        counts[size] = counts.get(size, 0) + 1
    seen = dict.fromkeys(counts, 0)
    result = []
    for size in blocks:
        index, count = seen[size], counts[size]
        streamed = count - resident[size]
        seen[size] += 1
        if spread:
            result.append((index + 1) * streamed // count > index * streamed // count)
        else:
            result.append(index >= resident[size])
    return result
