"""Reads the header of a safetensors file: names, types and shapes, without reading a weight and without torch.

Format: 8 bytes little-endian length, a JSON object of that length, then the data
(https://huggingface.co/docs/safetensors, section "Format").
"""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import msgspec

from core.messages import ModelFileError

# safetensors' own library refuses headers over 100 MB
_LARGEST_HEADER = 100_000_000

# bytes of one element by safetensors' type name, and the name we use (ggml's)
ELEMENT_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


class TensorHeader(msgspec.Struct, frozen=True):
    """One tensor: its stored type, its shape, and where its bytes lie in the data section."""

    type: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file.

    Raises:
        ModelFileError: the file is missing, truncated or no safetensors file; names the tensor where one is at fault.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _LARGEST_HEADER):
                raise ModelFileError(f"{path} is damaged: its header claims {length} bytes; download the file again.")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}); check that the model is complete.") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not a safetensors file or is damaged; download the file again.") from error
    if not isinstance(header, dict):
        raise ModelFileError(f"{path} is not a safetensors file or is damaged; download the file again.")
    data_bytes = size - 8 - length
    return {name: _tensor(path, name, entry, data_bytes) for name, entry in header.items() if name != "__metadata__"}


def _tensor(path: Path, name: str, entry: object, data_bytes: int) -> TensorHeader:
    try:
        raw = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        raise ModelFileError(f"{path} is damaged: tensor {name} has no valid header ({error}).") from error
    start, end = raw.data_offsets
    expected = prod(raw.shape) * ELEMENT_BYTES.get(raw.dtype, 0)
    if raw.dtype not in ELEMENT_BYTES or min(raw.shape, default=0) < 0:
        raise ModelFileError(f"{path}: tensor {name} has a type or shape that is not known ({raw.dtype} {raw.shape}).")
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
