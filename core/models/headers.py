"""Reads the header of a safetensors file: names, types and shapes, without reading a weight and without torch.

Format: 8 bytes little-endian length, a JSON object of that length, then the data
(https://huggingface.co/docs/safetensors, section "Format"). As safetensors' own library does, the tensors are expected
to fill the data without holes and without overlaps.
"""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from core.messages import ModelFileError

# safetensors' own library refuses headers over 100 MB
_LARGEST_HEADER = 100_000_000
_LARGEST_JSON = 32 << 20

# bytes of one element by safetensors' type name, and the name we use (ggml's)
ELEMENT_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


class TensorHeader(msgspec.Struct, frozen=True):
    """One tensor: its stored type, its shape (a row is last), and where its bytes lie: in safetensors in the data."""

    type: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


class SafetensorsHeader(msgspec.Struct, frozen=True):
    """A whole header; the data begin at byte `data_start` of the file."""

    tensors: dict[str, TensorHeader]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file.

    Raises:
        ModelFileError: as `read_safetensors` does.
    """
    return read_safetensors(path).tensors


def read_safetensors(path: Path) -> SafetensorsHeader:
    """The header of a safetensors file.

    Raises:
        ModelFileError: the file is missing, truncated or no safetensors file; names the tensor where one is at fault.
    """
    damaged = f"{path} is not a safetensors file or is damaged"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _LARGEST_HEADER):
                raise ModelFileError(f"{path} is damaged: its header claims {length} bytes; download the file again.")
            header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}); check that the model is complete.") from error
    except _TwiceError as error:
        raise ModelFileError(f"{path} is damaged: {error} is there twice; download the file again.") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise ModelFileError(f"{damaged}; download the file again.") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{damaged}; download the file again.")
    try:
        metadata = msgspec.convert(header.pop("__metadata__", {}), dict[str, str])
        for text in (*header, *metadata, *metadata.values()):
            text.encode()  # JSON can spell half of a surrogate pair, which nothing can print
    except (msgspec.ValidationError, UnicodeError) as error:
        raise ModelFileError(f"{path} is damaged: its names or metadata are no text; download it again.") from error
    data_bytes = size - 8 - length
    tensors = {name: _tensor(path, name, entry, data_bytes) for name, entry in header.items()}
    _check_places(path, tensors, data_bytes)
    return SafetensorsHeader(tensors, metadata, 8 + length)


class _TwiceError(ValueError):
    """A name that a JSON object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which Python would otherwise keep the last of two equal names."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(ascii(name))
        found[name] = value
    return found


def _check_places(path: Path, tensors: dict[str, TensorHeader], data_bytes: int) -> None:
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != end:
            wrong = "overlaps another" if tensor.start < end else "has a hole before it"
            raise ModelFileError(f"{path} is damaged: tensor {name} {wrong}; download the file again.")
        end = tensor.end
    if end != data_bytes:
        raise ModelFileError(
            f"{path} is damaged: there are {data_bytes - end} bytes behind its last tensor; download the file again."
        )


def _tensor(path: Path, name: str, entry: object, data_bytes: int) -> TensorHeader:
    try:
        raw = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        raise ModelFileError(f"{path} is damaged: tensor {name} has no valid header ({error}).") from error
    start, end = raw.data_offsets
    if raw.dtype not in ELEMENT_BYTES or min(raw.shape, default=0) < 0:
        raise ModelFileError(f"{path}: tensor {name} has a type or shape that is not known ({raw.dtype} {raw.shape}).")
    expected = prod(raw.shape) * ELEMENT_BYTES[raw.dtype]
    if not 0 <= start <= end <= data_bytes:
        raise ModelFileError(
            f"{path} is truncated: tensor {name} ends at byte {end} of {data_bytes}; download the file again."
        )
    if end - start != expected:
        raise ModelFileError(f"{path} is damaged: tensor {name} has {end - start} bytes, expected {expected}.")
    return TensorHeader(raw.dtype, raw.shape, start, end)


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of at most 32 MB. Raises ModelFileError where it is none."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelFileError(f"{path} is too large for a config; download the model again.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not valid JSON; download the model again.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is not a JSON object; download the model again.")
    return value
