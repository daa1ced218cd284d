"""What calibration measures of the link: copies from pinned and pageable memory, and copies beside kernels."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from core.hardware.calibrate_timing import MIB, borrowed, line, room, seconds_of
from core.hardware.interface import Accelerator, Work

_SIZES = (MIB // 4, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
_SAMPLES = 5
_LIMIT_SECONDS = 0.8  # for all sizes of one kind of memory; sizes that would take longer are left out
_TRIAL = 2 * MIB
_PLUG_SECONDS = 0.001
_CONTENTION_SECONDS = 0.04
_CONTENTION_SAMPLES = 3


class CopyRate(NamedTuple):
    """Copies of n bytes take latency + n / rate seconds; sizes up to `largest` bytes were tried."""

    rate: float
    latency: float
    largest: int


def copy_rate(accelerator: Accelerator, *, pinned: bool) -> CopyRate:
    """Copies from host memory to the device, one size after another as far as the time allows."""
    queue = accelerator.copy_queue
    size = room(accelerator, 1 / 8, _SIZES[-1])
    host = accelerator.pinned(size) if pinned else torch.empty(size, dtype=torch.uint8)
    host.zero_()  # pages that nobody wrote to are not there yet
    samples: list[tuple[int, float]] = []
    begin = time.monotonic()
    with borrowed(accelerator, size) as (target,):

        def copy(length: int) -> None:
            queue.copy(target[:length], host[:length], needed=False)

        trial = min(size, _TRIAL)
        about = trial / seconds_of(queue, partial(copy, trial))
        # runs while the rest is enqueued, so that no gap between two calls counts; pageable copies are waited for
        plug = min(size, int(about * _PLUG_SECONDS)) if pinned else 0
        for length in [length for length in _SIZES if length <= size]:
            if samples and _SAMPLES * length / about > _LIMIT_SECONDS - (time.monotonic() - begin):
                break
            for _ in range(_SAMPLES):
                copy(plug)
                samples.append((length, seconds_of(queue, partial(copy, length))))
    rate, latency = line(samples)
    return CopyRate(rate, latency, samples[-1][0])


def contention(
    accelerator: Accelerator, kernel: Callable[[], object], work: Work, seconds: float, rate: float
) -> float:
    """`a` in C' = C * (1 + a * share of time copying), C being what kernels take alone and C' beside copies.

    Args:
        kernel, work, seconds: what computes, and how long it takes alone.
        rate: bytes per second of copies from pinned memory.
    """
    copies, compute = accelerator.copy_queue, accelerator.compute_queue
    count = max(1, round(_CONTENTION_SECONDS / seconds))
    size = room(accelerator, 1 / 8, max(MIB, min(16 * MIB, int(rate * _CONTENTION_SECONDS / 8))))
    number = math.ceil(2.5 * count * seconds * rate / size) + 1

    def launch() -> None:
        for _ in range(count):
            compute.launch(kernel, work, needed=False)

    host = accelerator.pinned(size)
    host.zero_()
    found = []
    with borrowed(accelerator, size) as (target,):
        for _ in range(_CONTENTION_SAMPLES):
            alone = seconds_of(compute, launch)
            copies.copy(target, host, needed=False)
            compute.wait(copies.record())  # the copy engine is at work before the first kernel is
            for _ in range(number):
                copies.copy(target, host, needed=False)
            last = copies.record()
            begin = compute.record()
            launch()
            end = compute.record()
            accelerator.synchronize()
            beside = end.seconds_since(begin)
            share = min(1.0, max(0.05, last.seconds_since(begin) / beside))
            found.append((beside / alone - 1) / share)
    return max(0.0, statistics.median(found))
