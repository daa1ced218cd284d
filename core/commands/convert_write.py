"""The second pass of a conversion: every tensor read, encoded and written, a stretch at a time.

Blocks of a format never cross rows, so a stretch of whole blocks is encoded as if it were the tensor. Stretches go to
two threads, each of which computes with one: torch's own threads lose more at barriers between an encoder's many small
operations than they win.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch

from core.commands.convert_choice import Candidate
from core.commands.convert_source import STRETCH, Reader
from core.messages import ModelFileError
from core.precision.codec import decode, encode
from core.precision.formats import FORMATS

_AHEAD = 2  # stretches in flight for each thread

Tick = Callable[[float], None]
"""Told the share that is done, 0 to 1; may raise to stop."""


class Sums:
    """Squared errors and squared numbers of one tensor."""

    def __init__(self) -> None:
        self.error = self.numbers = 0.0

    @property
    def rel_rmse(self) -> float:
        """||w - w'|| / ||w||."""
        return math.sqrt(self.error / self.numbers) if self.numbers else 0.0


def threads() -> int:
    """How many stretches to work on at once."""
    return max(1, min(2, os.cpu_count() or 1))


def write(
    path: Path, starts: Sequence[int], listed: Sequence[Candidate], formats: dict[str, str], tick: Tick
) -> dict[str, Sums]:
    """Fill the data of a file whose header and size are there; returns the sums by tensor.

    Args:
        starts: where in the file each tensor begins.

    Raises:
        ModelFileError: a source is damaged or changed, or a number cannot be kept; names the tensor.
        OSError: the disk is full.
    """
    total = sum(candidate.source.stored.elements for candidate in listed) or 1
    sums = {candidate.name: Sums() for candidate in listed}
    done = 0
    with path.open("r+b", buffering=0) as file, computing_with_one():
        worker = _Worker(file, formats)
        with ThreadPoolExecutor(threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: deque[tuple[Candidate, int, Future[tuple[float, float]]]] = deque()
            try:
                for candidate, start, first, count in _stretches(listed, starts):
                    waiting.append((candidate, count, pool.submit(worker.convert, candidate, start, first, count)))
                    if len(waiting) >= _AHEAD * threads():
                        done += _take(waiting, sums)
                        tick(done / total)
                while waiting:
                    done += _take(waiting, sums)
                    tick(done / total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return sums


def _stretches(listed: Sequence[Candidate], starts: Sequence[int]) -> Iterator[tuple[Candidate, int, int, int]]:
    for candidate, start in zip(listed, starts, strict=True):
        elements = candidate.source.stored.elements
        for first in range(0, elements, STRETCH):
            yield candidate, start, first, min(STRETCH, elements - first)


def _take(waiting: deque[tuple[Candidate, int, Future[tuple[float, float]]]], sums: dict[str, Sums]) -> int:
    candidate, count, future = waiting.popleft()
    error, numbers = future.result()
    sums[candidate.name].error += error
    sums[candidate.name].numbers += numbers
    return count


class computing_with_one:  # noqa: N801  a context manager
    """torch computes with one thread meanwhile."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


class _Worker:
    """What one stretch takes; may be called by any thread."""

    def __init__(self, file: BinaryIO, formats: dict[str, str]) -> None:
        self._file, self._formats = file, formats
        self._local = threading.local()
        self._lock = threading.Lock()

    def convert(self, candidate: Candidate, start: int, first: int, count: int) -> tuple[float, float]:
        """Write `count` numbers from `first` on; returns the sums of squared errors and of squared numbers."""
        if not hasattr(self._local, "reader"):
            self._local.reader = Reader()
            self._local.numbers, self._local.again = torch.empty(STRETCH), torch.empty(STRETCH)
        reader: Reader = self._local.reader
        stored, source = self._formats[candidate.name], candidate.source
        if not source.decodable or source.integers:
            raw = reader.raw(source.stored, first, count)
            self._put(raw, start + first * raw.numel() // max(count, 1))
            return 0.0, 0.0
        numbers = reader.numbers(source, first, count, self._local.numbers)
        squares = float(numbers.dot(numbers))
        if stored == source.stored.type and source.scale == 1.0:
            raw = reader.raw(source.stored, first, count)  # again, from the page cache: the bytes as they are
            self._put(raw, start + first * raw.numel() // count)
            return 0.0, squares
        entry = FORMATS[stored]
        try:
            packed = encode(numbers.view((-1, entry.block_elements) if entry.packed else (1, -1)), stored)
        except ValueError as error:
            raise ModelFileError(
                f"{source.stored.file}: tensor {candidate.name} cannot be stored as {stored} ({error}, in blocks of "
                f"{entry.block_elements} from number {first} on); use --keep '{candidate.name}=BF16'."
            ) from error
        self._put(packed.view(-1), start + first // entry.block_elements * entry.block_bytes)
        again = decode(packed, stored, (count,), out=self._local.again[:count]).sub_(numbers)
        return float(again.dot(again)), squares

    def _put(self, data: torch.Tensor, position: int) -> None:
        view = memoryview(data.numpy())  # type: ignore[arg-type]
        if sys.platform != "win32":
            while view:
                written = os.pwrite(self._file.fileno(), view, position)
                view, position = view[written:], position + written
            return
        with self._lock:
            self._file.seek(position)
            self._file.write(view)
