"""Lays out a GGUF file: the bytes of its header, and where in the file each tensor is to be written. No torch.

The counterpart of core.models.gguf_header, which says where the format is described. Version 3, little endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import prod

import msgspec

from core.models.gguf_header import ALIGNMENT_KEY, MAGIC, SHAPE_KEY, TYPE_NUMBERS, block_of
from core.precision.formats import FORMATS

TARGETS = tuple(name for name in FORMATS if name in TYPE_NUMBERS)
"""The formats that can be written; GGUF has no F8."""

_VERSION = 3
_DIMENSIONS = 4  # GGML_MAX_DIMS
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT64 = 4, 5, 6, 7, 8, 9, 11

Plain = int | float | bool | str | list[str] | list[int] | list[float]


class Layout(msgspec.Struct, frozen=True):
    """`header` is what the file begins with, `starts` where each tensor begins, `size` that of the whole file.

    `values` says where the value of each metadata entry begins (of an array: its first entry), to be written over
    later by one of the same size.
    """

    header: bytes
    starts: tuple[int, ...]
    size: int
    values: dict[str, int]


def lay_out(
    metadata: Mapping[str, Plain],
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    alignment: int,
    copied: Mapping[str, bytes] | None = None,
) -> Layout:
    """The layout of a file.

    Args:
        metadata: integers become 32-bit ones where they fit, floats float32.
        tensors: name, ggml's type and shape of each, in the order in which they are to lie in the file. More than four
            dimensions become four, and the shape is kept as ComfyUI-GGUF keeps it.
        alignment: a power of two; every tensor begins at a multiple of it.
        copied: metadata entries of another file, key and value as they lie there.

    Raises:
        KeyError: ggml has no such type.
    """
    entries: dict[str, Plain] = {ALIGNMENT_KEY: alignment, **metadata}
    for name, _, shape in tensors:
        if not 0 < len(shape) <= _DIMENSIONS:
            entries[SHAPE_KEY + name] = list(shape)
    copied = {key: raw for key, raw in (copied or {}).items() if key not in entries}
    parts = [MAGIC + struct.pack("<IQQ", _VERSION, len(tensors), len(entries) + len(copied)), *copied.values()]
    at = sum(len(part) for part in parts)
    values: dict[str, int] = {}
    for key, value in entries.items():
        before, content = _pair(key, value)
        values[key] = at + len(before)
        parts.append(before + content)
        at += len(parts[-1])
    offset = 0
    offsets = []
    for name, kind, shape in tensors:
        stored = shape if len(shape) <= _DIMENSIONS else (prod(shape[: 1 - _DIMENSIONS]), *shape[1 - _DIMENSIONS :])
        extents = tuple(reversed(stored)) or (1,)
        info = struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, TYPE_NUMBERS[kind], offset)
        parts.append(_text(name) + info)
        offsets.append(offset)
        elements, size = block_of(kind)
        offset = _aligned(offset + prod(shape) // elements * size, alignment)
    header = b"".join(parts)
    header += bytes(_aligned(len(header), alignment) - len(header))
    return Layout(header, tuple(len(header) + start for start in offsets), len(header) + offset, values)


def _pair(key: str, value: Plain) -> tuple[bytes, bytes]:
    """A metadata entry: what stands before its value, and the value."""
    kind, before, content = _value(value)
    return _text(key) + struct.pack("<I", kind) + before, content


def _value(value: Plain) -> tuple[int, bytes, bytes]:
    if isinstance(value, bool):
        return _BOOL, b"", struct.pack("<?", value)
    if isinstance(value, int):
        return (
            (_UINT32, b"", struct.pack("<I", value)) if 0 <= value < 2**32 else (_INT64, b"", struct.pack("<q", value))
        )
    if isinstance(value, float):
        return _FLOAT32, b"", struct.pack("<f", value)
    if isinstance(value, str):
        encoded = value.encode()
        return _STRING, struct.pack("<Q", len(encoded)), encoded
    if value and isinstance(value[0], str):
        return _ARRAY, struct.pack("<IQ", _STRING, len(value)), b"".join(_text(str(entry)) for entry in value)
    if value and isinstance(value[0], float):
        return _ARRAY, struct.pack("<IQ", _FLOAT32, len(value)), struct.pack(f"<{len(value)}f", *value)
    return _ARRAY, struct.pack("<IQ", _INT32, len(value)), struct.pack(f"<{len(value)}i", *value)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
