"""Where the bytes of slabs come from: ranges of files, read at their positions, or tensors in host memory.

Files are not mapped: reading is as fast, and a truncated file is a short read with a name instead of a signal that
kills the process.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from core.hardware.buffers import move
from core.messages import ModelFileError
from core.residency.slabs import Division, Piece, Slab

# Numbers cast at once: few enough that torch does it in the calling thread (its grain is 32,768).
_CAST_ELEMENTS = 32_768
_READ_BYTES = 64 << 20  # a single read may be limited to 2 GiB


class Source(Protocol):
    """One tensor's bytes."""

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        """Put the tensor's bytes, in the piece's dtype, from byte `start` on into `target`.

        `target` is uint8 of host memory and decides how many; both ends lie between two numbers.
        """
        ...


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

    def fill(self, slab: Slab, target: torch.Tensor, start: int = 0) -> None:
        """Put a slab's bytes from `start` (a multiple of ALIGNMENT) on into a host buffer, which decides how many.

        Raises:
            ModelFileError: a file is truncated or was changed; names file and tensor.
        """
        end = start + target.numel()
        for piece in slab.pieces:
            first, last = max(piece.offset, start), min(piece.offset + piece.nbytes, end)
            if first < last:
                self.sources[piece.path].read(piece, target[first - start : last - start], first - piece.offset)


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

    def __init__(self, file: OpenFile, start: int, dtype: torch.dtype) -> None:
        """`start` counts bytes from the beginning of the file; `dtype` is what it is stored in."""
        self._file, self._start, self._dtype = file, start, dtype

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


def _cast(target: torch.Tensor, source: torch.Tensor) -> None:
    """Cast numbers in small parts, which disturbs torch's threads least."""
    for begin in range(0, source.numel(), _CAST_ELEMENTS):
        target[begin : begin + _CAST_ELEMENTS] = source[begin : begin + _CAST_ELEMENTS]
