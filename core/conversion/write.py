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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch

from core.conversion.choice import Candidate
from core.conversion.journal import Journal
from core.conversion.moments import Fitting
from core.conversion.source import STRETCH, Reader
from core.messages import ModelFileError
from core.precision.codec import decode, encode
from core.precision.formats import FORMATS

_LEAST = 1e-30  # a sum of squares below may have lost some that are less than float32 holds
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
    path: Path,
    starts: Sequence[int],
    listed: Sequence[Candidate],
    formats: Mapping[str, str],
    journal: Journal,
    tick: Tick,
    fitting: Fitting | None = None,
) -> dict[str, Sums]:
    """Fill the data of a file whose header and size are there; returns the sums by tensor.

    Args:
        starts: where in the file each tensor begins.
        journal: says which tensors are there already, and is told of each that is finished.
        fitting: encodes what is to fit its layer's inputs; the rest is rounded by itself.

    Raises:
        ModelFileError: a source is damaged or changed, or a number cannot be kept; names the tensor.
        OSError: the disk is full.
    """
    total = sum(candidate.source.stored.elements for candidate in listed) or 1
    sums = {candidate.name: Sums() for candidate in listed}
    left = [candidate.source.stored.elements for candidate in listed]
    for number, line in journal.done.items():
        if 0 <= number < len(listed):
            left[number] = 0
            sums[listed[number].name].error, sums[listed[number].name].numbers = line.error, line.numbers
    with path.open("r+b", buffering=0) as file, computing_with_one():
        worker = _Worker(file, formats, fitting)

        def take(number: int, count: int, future: Future[tuple[float, float]]) -> None:
            found = sums[listed[number].name]
            error, squares = future.result()
            found.error += error
            found.numbers += squares
            left[number] -= count
            if not left[number]:
                journal.finished(number, found.error, found.numbers, file.fileno())
            tick(1 - sum(left) / total)

        with ThreadPoolExecutor(threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: deque[tuple[int, int, Future[tuple[float, float]]]] = deque()
            try:
                for number, first, count in _stretches(left, [worker.stretch(candidate) for candidate in listed]):
                    candidate = listed[number]
                    waiting.append(
                        (number, count, pool.submit(worker.convert, candidate, starts[number], first, count))
                    )
                    if len(waiting) >= _AHEAD * threads():
                        take(*waiting.popleft())
                while waiting:
                    take(*waiting.popleft())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                journal.flush(file.fileno())
                raise
    return sums


def _stretches(elements: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(tensor, first number, how many) of all that is to be done, from what each tensor has at the beginning."""
    for number, (some, size) in enumerate(zip(list(elements), sizes, strict=True)):
        for first in range(0, some, size):
            yield number, first, min(size, some - first)


def squares(numbers: torch.Tensor) -> float:
    """The sum of squares of float32 [n], also where it is beyond what float32 holds, or below."""
    found = float(numbers.dot(numbers))
    if _LEAST < found < math.inf:
        return found
    doubled = numbers.double()
    return float(doubled.dot(doubled))


class computing_with_one:  # noqa: N801  a context manager
    """torch computes with one thread meanwhile."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


class _Worker:
    """What one stretch takes; may be called by any thread."""

    def __init__(self, file: BinaryIO, formats: Mapping[str, str], fitting: Fitting | None) -> None:
        self._file, self._formats, self._fitting = file, formats, fitting
        self._local = threading.local()
        self._lock = threading.Lock()

    def stretch(self, candidate: Candidate) -> int:
        """Numbers of a tensor that are taken at once: whole rows where rounding fits them."""
        if self._fitting is None or candidate not in self._fitting:
            return STRETCH
        return STRETCH // candidate.shape[1] * candidate.shape[1]

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
        size = squares(numbers)
        if stored == source.stored.type and not source.factors:
            raw = reader.raw(source.stored, first, count)  # again, from the page cache: the bytes as they are
            self._put(raw, start + first * raw.numel() // count)
            return 0.0, size
        entry = FORMATS[stored]
        try:
            if self._fitting is not None and candidate in self._fitting:
                packed = self._fitting.encode(candidate, numbers, first)
            else:
                packed = encode(numbers.view((-1, entry.block_elements) if entry.packed else (1, -1)), stored)
        except ValueError as error:
            wider = "F32" if stored == "BF16" else "BF16"
            raise ModelFileError(
                f"{source.stored.file}: tensor {candidate.name} cannot be stored as {stored} ({error}, in blocks of "
                f"{entry.block_elements} from number {first} on); use --keep '{candidate.name}={wider}'."
            ) from error
        self._put(packed.view(-1), start + first // entry.block_elements * entry.block_bytes)
        again = decode(packed, stored, (count,), out=self._local.again[:count]).sub_(numbers)
        return squares(again), size

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
