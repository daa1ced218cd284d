"""Where the bytes of slabs come from: ranges of files, read at their positions, or tensors in host memory.

Files are not mapped: reading is as fast, and a truncated file is a short read with a name instead of a signal that
kills the process.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from core.hardware.buffers import move
from core.messages import ModelFileError
from core.residency.slabs import Division, Piece, Slab

# Numbers cast at once: few enough that torch does it in the calling thread (its grain is 32,768).
_CAST_ELEMENTS = 32_768
_READ_BYTES = 16 << 20  # at once: 10 ms from memory, so that a reader can be stopped
_ADVICE = {name: getattr(os, f"POSIX_FADV_{name}", None) for name in ("WILLNEED", "DONTNEED")}


class Source(Protocol):
    """One tensor's bytes."""

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        """Put the tensor's bytes, in the piece's dtype, from byte `start` on into `target`.

        `target` is uint8 of host memory and decides how many; both ends lie between two numbers.
        """
        ...

    def advise(self, advice: str) -> None:
        """Tell the OS that it WILLNEED the bytes soon, or DONTNEED them any more."""
        ...


class Stopped(Exception):
    """Nobody wants what is read any more."""


class HostStore:
    """The weights of one network, slab by slab. `fill` may be called by any one thread at a time."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        """`sources` by the name under which a tensor lies in its slab."""
        self.sources = sources

    @classmethod
    def in_memory(cls, module: nn.Module, division: Division) -> HostStore:
        """A network whose weights are in host memory now."""
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        pieces = [piece for slab in division.slabs for piece in slab.pieces]
        return cls({piece.path: MemoryTensor(tensors[piece.path].data) for piece in pieces})

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        """A part of one tensor, in any dtype; see `Source.read`."""
        self.sources[piece.path].read(piece, target, start)

    def fill(
        self, slab: Slab, target: torch.Tensor, start: int = 0, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Put a slab's bytes from `start` (a multiple of ALIGNMENT) on into a host buffer, which decides how many.

        Raises:
            ModelFileError: a file is truncated or was changed; names file and tensor.
            Stopped: `stopped` said so, which is asked every few milliseconds.
        """
        end = start + target.numel()
        for piece in slab.pieces:
            first, last = max(piece.offset, start), min(piece.offset + piece.nbytes, end)
            for begin in range(first, last, _READ_BYTES):
                if stopped():
                    raise Stopped
                part = target[begin - start : min(begin + _READ_BYTES, last) - start]
                self.sources[piece.path].read(piece, part, begin - piece.offset)

    def advise(self, slabs: Iterable[Slab], advice: str) -> None:
        """Tell the OS that it WILLNEED the bytes of slabs soon (it may read ahead), or DONTNEED them any more."""
        if _ADVICE[advice] is not None:
            for slab in slabs:
                for piece in slab.pieces:
                    self.sources[piece.path].advise(advice)


class MemoryTensor:
    """A tensor that lies in host memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        """Copy it, cast where the piece asks for it."""
        source = self._tensor.contiguous().view(-1)
        if source.dtype == piece.dtype:
            move(target, source.view(torch.uint8)[start : start + target.numel()])
        else:
            first, numbers = start // piece.dtype.itemsize, target.numel() // piece.dtype.itemsize
            _cast(target.view(piece.dtype), source[first : first + numbers])

    def advise(self, advice: str) -> None:
        """It is there as long as the network."""


class OpenFile:
    """A weight file that is open for positioned reads, and must stay as it was when its header was read."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError when it cannot be opened."""
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read ({error.strerror}); check that the model is there.") from error
        weakref.finalize(self, self._file.close)
        self._stamp = self._now()

    def read(self, name: str, start: int, target: memoryview) -> None:
        """Fill `target` from the file's position `start` on. Raises ModelFileError, which names the tensor."""
        done = 0
        try:
            if self._now() != self._stamp:
                raise ModelFileError(f"{self.path} was changed while it was in use (at {name}); generate again.")
            while done < len(target):
                count = self._at(target[done : done + _READ_BYTES], start + done)
                if not count:
                    raise ModelFileError(
                        f"{self.path} is truncated: tensor {name} ends {len(target) - done} bytes behind its end; "
                        "download the file again."
                    )
                done += count
        except OSError as error:
            raise ModelFileError(f"{self.path} cannot be read at tensor {name} ({error.strerror}).") from error

    def advise(self, start: int, size: int, advice: str) -> None:
        """Tell the OS about a range of bytes, where it listens."""
        code = _ADVICE[advice]
        if code is not None:
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._file.fileno(), start, size, code)

    def _at(self, target: memoryview, position: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [target], position)
        self._file.seek(position)  # Windows; one thread reads at a time
        return self._file.readinto(target) or 0

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


class FileTensor:
    """A range of a file."""

    def __init__(self, file: OpenFile, start: int, dtype: torch.dtype, size: int = 0) -> None:
        """`start` counts bytes from the beginning of the file; `dtype` is what its `size` bytes are stored in."""
        self._file, self._start, self._dtype, self._size = file, start, dtype, size

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        """Read it, cast where the piece asks for it."""
        if self._dtype == piece.dtype:
            self._file.read(piece.path, self._start + start, memoryview(target.numpy()))  # type: ignore[arg-type]
            return
        wanted, size = target.view(piece.dtype), self._dtype.itemsize
        position = self._start + start // piece.dtype.itemsize * size
        part = torch.empty(min(wanted.numel(), 32 * _CAST_ELEMENTS), dtype=self._dtype)
        for begin in range(0, wanted.numel(), part.numel()):
            some = part[: wanted.numel() - begin]
            into = memoryview(some.view(torch.uint8).numpy())  # type: ignore[arg-type]
            self._file.read(piece.path, position + begin * size, into)
            _cast(wanted[begin : begin + some.numel()], some)

    def advise(self, advice: str) -> None:
        """See `Source`."""
        if self._size:  # 0 would mean: to the end of the file
            self._file.advise(self._start, self._size, advice)


def _cast(target: torch.Tensor, source: torch.Tensor) -> None:
    """Cast numbers in small parts, which disturbs torch's threads least."""
    for begin in range(0, source.numel(), _CAST_ELEMENTS):
        target[begin : begin + _CAST_ELEMENTS] = source[begin : begin + _CAST_ELEMENTS]
