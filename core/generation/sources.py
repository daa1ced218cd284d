"""Tensors in a model's files as sources of slabs: as they lie there, in several ranges, or decoded and multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch

from core.messages import ModelFileError
from core.models.stored import Stored
from core.precision.codec import decode
from core.precision.formats import FORMATS
from core.residency.slabs import Piece
from core.residency.store import FileTensor, OpenFile, Source

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_AT_ONCE = 1 << 20  # numbers that are decoded at once; whole blocks of every format


def known(type_name: str) -> bool:
    """Whether numbers of a type can be read."""
    return type_name in DTYPES or type_name in FORMATS


class Files:
    """The weight files of a component, each opened once."""

    def __init__(self) -> None:
        self._open: dict[Path, OpenFile] = {}

    def open(self, path: Path) -> OpenFile:
        """Raises ModelFileError when it cannot be opened."""
        if path not in self._open:
            self._open[path] = OpenFile(path)
        return self._open[path]

    def dense(self, stored: Stored) -> Source:
        """A tensor's numbers, of a known type, in whatever dtype they are asked for.

        Raises:
            ModelFileError: they are to be multiplied by factors that are not understood.
        """
        if stored.type in FORMATS and FORMATS[stored.type].held_packed:
            numbers: Source = _Decoded(stored, self._ranges(stored, torch.uint8))
        else:
            numbers = self._ranges(stored, DTYPES[stored.type])
        return numbers if stored.scale is None else _Scaled(numbers, self._factors(stored, stored.scale))

    def packed(self, stored: Stored) -> Source:
        """The bytes of a tensor as they are."""
        return self._ranges(stored, torch.uint8)

    def factors(self, stored: Stored) -> torch.Tensor | None:
        """What its numbers are to be multiplied by: float32, [1] or one for each row.

        Raises:
            ModelFileError: there are factors of another kind.
        """
        return None if stored.scale is None else self._factors(stored, stored.scale)

    def _factors(self, stored: Stored, scale: Stored) -> torch.Tensor:
        """Float32, [1] or one for each row."""
        rows = prod(stored.shape[:-1])
        if scale.elements not in (1, rows) or not known(scale.type):
            raise ModelFileError(
                f"{scale.file}: {scale.name} has {scale.elements} factors for the {rows} rows of {stored.name}, which "
                "this version does not understand; get the model in BF16."
            )
        factors = torch.empty(scale.elements)
        self.dense(scale).read(Piece(scale.name, (scale.elements,), torch.float32, 0), factors.view(torch.uint8))
        if not factors.isfinite().all():
            raise ModelFileError(f"{scale.file} is damaged: {scale.name} is not finite; download the file again.")
        return factors

    def _ranges(self, stored: Stored, dtype: torch.dtype) -> Source:
        parts = [
            (FileTensor(self.open(part.file), part.start, dtype, part.end - part.start), part.end - part.start)
            for part in stored.ranges
        ]
        return parts[0][0] if len(parts) == 1 else _Joined(parts, dtype)


def packed_in_files(
    formats: Mapping[str, str], stored: Mapping[str, Stored], files: Files
) -> tuple[dict[str, Source], dict[str, torch.Tensor]]:
    """Those weights that a component's files hold in the wanted format already.

    Args:
        formats: by the weights' names in the network.
        stored: by the tensors' names in the network.

    Returns:
        Where they lie, by the weights' names, and the factors of those that have any.
    """
    sources: dict[str, Source] = {}
    factors: dict[str, torch.Tensor] = {}
    for name, wanted in formats.items():
        tensor = stored.get(name)
        if tensor is not None and tensor.type == wanted:
            sources[name] = files.packed(tensor)
            if (of := files.factors(tensor)) is not None:
                factors[name] = of
    return sources, factors


class _Joined:
    """Several ranges, one behind the other."""

    def __init__(self, parts: Sequence[tuple[FileTensor, int]], dtype: torch.dtype) -> None:
        """`parts` with the bytes of each, in their `dtype`."""
        self._parts, self._itemsize = parts, dtype.itemsize

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        """See `Source`."""
        at = 0  # in bytes of the piece's dtype
        end = start + target.numel()
        for part, size in self._parts:
            length = size // self._itemsize * piece.dtype.itemsize
            first, last = max(start, at), min(end, at + length)
            if first < last:
                part.read(piece, target[first - start : last - start], first - at)
            at += length

    def advise(self, advice: str) -> None:
        """See `Source`."""
        for part, _ in self._parts:
            part.advise(advice)


class _Scaled:
    """Numbers that are multiplied, in float32, as they are read."""

    def __init__(self, source: Source, factors: torch.Tensor) -> None:
        """`factors` is float32: one, or one for each row."""
        self._source, self._factors = source, factors

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        """See `Source`."""
        wanted, first = target.view(piece.dtype), start // piece.dtype.itemsize
        numbers = Piece(piece.path, piece.shape, torch.float32, 0)
        row = max(1, prod(piece.shape) // self._factors.numel())
        for begin in range(0, wanted.numel(), _AT_ONCE):
            some = torch.empty(min(_AT_ONCE, wanted.numel() - begin))
            at = first + begin
            self._source.read(numbers, some.view(torch.uint8), at * some.itemsize)
            rows = torch.arange(at, at + some.numel()) // row if self._factors.numel() > 1 else 0
            wanted[begin : begin + some.numel()] = some.mul_(self._factors[rows])

    def advise(self, advice: str) -> None:
        """See `Source`."""
        self._source.advise(advice)


class _Decoded:
    """A packed tensor, decoded as it is read."""

    def __init__(self, stored: Stored, source: Source) -> None:
        self._stored, self._format, self._source = stored, FORMATS[stored.type], source
        rows = prod(stored.shape[:-1])
        self._bytes = Piece(stored.name, (rows, stored.bytes // max(rows, 1)), torch.uint8, 0)

    def read(self, piece: Piece, target: torch.Tensor, start: int = 0) -> None:
        """See `Source`."""
        wanted = target.view(piece.dtype)
        first, block = start // piece.dtype.itemsize, self._format.block_elements
        for begin in range(first // block * block, first + wanted.numel(), _AT_ONCE):
            end = min(begin + _AT_ONCE, -(-(first + wanted.numel()) // block) * block)
            raw = torch.empty((end - begin) // block * self._format.block_bytes, dtype=torch.uint8)
            self._source.read(self._bytes, raw, begin // block * self._format.block_bytes)
            numbers = decode(raw, self._format.name, (end - begin,))
            low, high = max(begin, first), min(end, first + wanted.numel())
            wanted[low - first : high - first] = numbers[low - begin : high - begin]

    def advise(self, advice: str) -> None:
        """See `Source`."""
        self._source.advise(advice)
