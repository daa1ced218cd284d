"""What calibration measures of files: reading from the disk, and from the page cache through a ring to the device."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from core.hardware.calibrate_timing import MIB, borrowed, room
from core.hardware.interface import Accelerator

FILE_BYTES = 64 * MIB
CHUNK = 4 * MIB
_RING = 4  # pinned buffers between file and link
_LIMIT_SECONDS = 0.6  # for one pass over the file, and for all passes from the page cache
_PASSES = 4


@contextmanager
def sample_file(folder: Path) -> Iterator[BinaryIO]:
    """A file of FILE_BYTES on the disk of `folder`, gone after the `with`. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        block = os.urandom(CHUNK)  # nothing that a file system could compress
        for _ in range(FILE_BYTES // CHUNK):
            file.write(block)
        os.fsync(file.fileno())
        yield file


def disk_rate(file: BinaryIO) -> float | None:
    """Bytes per second of a pass over a file whose pages were dropped; None where a system cannot drop them."""
    if not hasattr(os, "posix_fadvise"):
        return None
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    view = memoryview(bytearray(CHUNK))
    begin, done = time.perf_counter(), 0
    while done < FILE_BYTES and time.perf_counter() - begin < _LIMIT_SECONDS:
        done += _read(file, view, done)
    return done / (time.perf_counter() - begin)


def staged_rate(accelerator: Accelerator, file: BinaryIO) -> float:
    """Bytes per second of positioned reads into a small pinned ring and, where there is a link, copies from there.

    The file comes from the page cache: a first pass, which brings it there, does not count.
    """
    chunk = room(accelerator, 1 / 16, CHUNK)
    ring = [accelerator.pinned(chunk) for _ in range(_RING)]
    views = [memoryview(buffer.numpy().data) for buffer in ring]
    link = accelerator.copy_queue if accelerator.has_own_memory else None
    rates: list[float] = []
    with borrowed(accelerator, *[chunk] * (_RING if link else 0)) as slots:
        begin = time.perf_counter()
        while len(rates) < _PASSES and time.perf_counter() - begin < _LIMIT_SECONDS:
            copied = [accelerator.event() for _ in ring]
            started, done = time.perf_counter(), 0
            while done < FILE_BYTES and time.perf_counter() - started < _LIMIT_SECONDS:
                at = done // chunk % _RING
                if copied[at].recorded:
                    copied[at].synchronize()
                done += _read(file, views[at], done)
                if link:
                    link.copy(slots[at], ring[at], needed=False)
                    link.record(copied[at])
            accelerator.synchronize()
            rates.append(done / (time.perf_counter() - started))
    return statistics.median(rates[1:] or rates)


def _read(file: BinaryIO, view: memoryview, offset: int) -> int:
    """Fill a buffer from a place of the file; returns its length. Raises OSError where the file is shorter."""
    if hasattr(os, "preadv"):
        count = os.preadv(file.fileno(), [view], offset)
    else:
        file.seek(offset)
        count = file.readinto(view)  # type: ignore[attr-defined]
    if count != len(view):
        raise OSError(0, "a read was cut short")
    return count
