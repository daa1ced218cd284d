"""Tensors in a model's files as sources of slabs: as they lie there, in several ranges, or packed and to be decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import nn

from core.models.stored import Stored
from core.precision.codec import decode
from core.precision.formats import FORMATS
from core.residency.packed import PACKED
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
        """A tensor's numbers, of a known type, in whatever dtype they are asked for."""
        if stored.type in DTYPES:
            return self._ranges(stored, DTYPES[stored.type])
        return _Decoded(stored, self._ranges(stored, torch.uint8))

    def packed(self, stored: Stored) -> Source:
        """A packed tensor's bytes as they are."""
        return self._ranges(stored, torch.uint8)

    def _ranges(self, stored: Stored, dtype: torch.dtype) -> Source:
        parts = [
            (FileTensor(self.open(part.file), part.start, dtype, part.end - part.start), part.end - part.start)
            for part in stored.ranges
        ]
        return parts[0][0] if len(parts) == 1 else _Joined(parts, dtype)


def packed_in_files(
    module: nn.Module, stored: Mapping[str, Stored], files: Files
) -> tuple[dict[str, str], dict[str, Source]]:
    """What a component's files hold packed and its layers can compute with as it is.

    Args:
        stored: by the tensors' names in the network.

    Returns:
        The format of each such weight by its name, and where it lies by the name of its packed layer's buffer.
    """
    formats: dict[str, str] = {}
    sources: dict[str, Source] = {}
    for name, tensor in stored.items():
        owner, _, last = name.rpartition(".")
        if last != "weight" or tensor.type not in FORMATS or not FORMATS[tensor.type].packed:
            continue
        try:
            layer = module.get_submodule(owner)
        except AttributeError:
            continue  # the network has no such layer
        if type(layer) in (nn.Linear, nn.Embedding) and tuple(layer.get_parameter("weight").shape) == tensor.shape:
            formats[name] = tensor.type
            sources[f"{owner}.{PACKED}"] = files.packed(tensor)
    return formats, sources


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
