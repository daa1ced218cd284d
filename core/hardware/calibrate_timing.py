"""How calibration takes time: device events around groups of operations, medians, and a line through sizes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from core.hardware.interface import Accelerator, Queue, Work

MIB = 2**20
OWNER = "calibration"
_GROUP_SECONDS = 0.004  # a group of kernels lasts at least so long, which makes the clock's grain and gaps small
_LARGEST_GROUP = 512
_SAMPLES = 3


@contextmanager
def borrowed(accelerator: Accelerator, *sizes: int) -> Iterator[list[torch.Tensor]]:
    """Device buffers, uint8 [size], for the length of a `with`. Raises torch.OutOfMemoryError."""
    buffers: list[torch.Tensor] = []
    try:
        for size in sizes:
            buffers.append(accelerator.allocate(size, OWNER))  # noqa: PERF401 - the first go back if the second fails
        yield buffers
    finally:
        accelerator.synchronize()
        for buffer in buffers:
            accelerator.free(buffer)


def room(accelerator: Accelerator, share: float, most: int) -> int:
    """Bytes that one measurement may take: a share of the free memory, `most` at most, in whole megabytes."""
    limits = [share * accelerator.memory()[1], most, accelerator.largest_allocation or most]
    return max(1, int(min(limits)) // MIB) * MIB


def seconds_of(queue: Queue, enqueue: Callable[[], object]) -> float:
    """Device seconds of what is enqueued."""
    begin = queue.record()
    enqueue()
    end = queue.record()
    end.synchronize()
    return end.seconds_since(begin)


def kernel_seconds(queue: Queue, kernel: Callable[[], object], work: Work) -> float:
    """Device seconds of one kernel among its like: the median of a few groups, after a first run that counts not."""

    def group(count: int) -> Callable[[], None]:
        def enqueue() -> None:
            for _ in range(count):
                queue.launch(kernel, work, needed=False)

        return enqueue

    count, seconds = 1, seconds_of(queue, group(1))
    seconds = seconds_of(queue, group(1))
    while seconds < _GROUP_SECONDS and count < _LARGEST_GROUP:
        grown = math.ceil(count * 1.3 * _GROUP_SECONDS / max(seconds, 1e-7))
        count = min(_LARGEST_GROUP, max(2 * count, grown))
        seconds = seconds_of(queue, group(count))
    samples = [seconds, *(seconds_of(queue, group(count)) for _ in range(_SAMPLES - 1))]
    return statistics.median(samples) / count


def line(samples: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Rate and latency of (bytes, seconds) pairs: seconds = latency + bytes / rate.

    Least squares of relative errors through the medians of each size, so that small sizes decide the latency and large
    ones the rate. Where that gives no sensible line (noise, one size only), the latency is 0 and the rate that of the
    largest size.
    """
    by_size: dict[int, list[float]] = {}
    for size, seconds in samples:
        by_size.setdefault(size, []).append(seconds)
    medians = [(float(size), statistics.median(times)) for size, times in by_size.items()]
    largest, longest = max(medians)
    plain = largest / longest
    weights = [1 / seconds**2 for _, seconds in medians]
    weighted = list(zip(weights, medians, strict=True))
    mean_size = sum(weight * size for weight, (size, _) in weighted) / sum(weights)
    mean_seconds = sum(weight * seconds for weight, (_, seconds) in weighted) / sum(weights)
    spread = sum(weight * (size - mean_size) ** 2 for weight, (size, _) in weighted)
    joint = sum(weight * (size - mean_size) * (seconds - mean_seconds) for weight, (size, seconds) in weighted)
    slope = joint / spread if spread else 0.0
    latency = mean_seconds - slope * mean_size
    if slope <= 0 or latency < 0 or 1 / slope > 2 * plain:
        return plain, 0.0
    return 1 / slope, latency
