"""Reads the header of a GGUF file: metadata, and names, types and shapes, without reading a weight and without torch.

Format: magic, version, counts, key-value pairs, tensor infos, padding, data; little endian
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Versions 2 and 3 differ in nothing that is read here. As
ggml's own reader does (gguf_init_from_file), tensors are expected one behind the other in the order of their infos.
Every size is held against the file's before anything is allocated.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

import msgspec

from core.messages import ModelFileError
from core.models.headers import TensorHeader
from core.precision.formats import FORMATS

MAGIC = b"GGUF"
ALIGNMENT_KEY = "general.alignment"
# The shape that a tensor had before it was brought to ggml's four dimensions. Source: tools/convert.py of ComfyUI-GGUF.
SHAPE_KEY = "comfy.gguf.orig_shape."

_LARGEST_HEADER = 100_000_000  # that of safetensors' library; GGUF itself sets no limit
_LARGEST_ELEMENTS = 1 << 22  # entries of all arrays; the largest vocabularies have 1.4 M with their merges
_DEPTH = 4  # arrays in arrays
_DIMENSIONS = 8  # ggml has 4
_DEFAULT_ALIGNMENT = 32
_FIRST_READ = 1 << 18

# ggml's type numbers (enum ggml_type in ggml.h), and elements and bytes of a block where core.precision does not store
# the type (ggml-common.h). Q8_1 and Q8_K, which ggml only computes with, are in no file.
TYPE_NUMBERS = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
    "Q5_K": 13, "Q6_K": 14, "IQ2_XXS": 16, "IQ2_XS": 17, "IQ3_XXS": 18, "IQ1_S": 19,
    "IQ4_NL": 20, "IQ3_S": 21, "IQ2_S": 22, "IQ4_XS": 23, "I8": 24, "I16": 25, "I32": 26, "I64": 27, "F64": 28,
    "IQ1_M": 29, "BF16": 30, "TQ1_0": 34, "TQ2_0": 35, "MXFP4": 39, "NVFP4": 40,
}  # fmt: skip
_OTHER_BLOCKS = {
    "IQ2_XXS": (256, 66), "IQ2_XS": (256, 74), "IQ3_XXS": (256, 98),
    "IQ1_S": (256, 50), "IQ3_S": (256, 110), "IQ2_S": (256, 82), "IQ1_M": (256, 56), "TQ1_0": (256, 54),
    "TQ2_0": (256, 66), "NVFP4": (64, 36), "I8": (1, 1), "I16": (1, 2), "I32": (1, 4), "I64": (1, 8), "F64": (1, 8),
}  # fmt: skip
_TYPE_NAMES = {number: name for name, number in TYPE_NUMBERS.items()}

# struct codes of the numbers among metadata values (enum gguf_type in gguf.h); 7 is bool, 8 string, 9 array
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_LEAST_PAIR = 8 + 4 + 1  # bytes of a key's length, a value's type and the smallest value
_LEAST_INFO = 8 + 4 + 4 + 8  # bytes of a name's length, the number of dimensions, the type and the offset


class LongArray(msgspec.Struct, frozen=True):
    """Stands for a metadata array that was too long to be kept."""

    count: int


Value = int | float | bool | str | list["Value"] | LongArray


class GgufHeader(msgspec.Struct, frozen=True):
    """What a GGUF file says about itself; `tensors` in the order in which they lie in it, counted from its beginning.

    `pairs` says where in the file each entry of the metadata lies, for who copies it as it is.
    """

    version: int
    alignment: int
    metadata: dict[str, Value]
    tensors: dict[str, TensorHeader]
    pairs: dict[str, tuple[int, int]]


def block_of(type_name: str) -> tuple[int, int]:
    """Elements and bytes of one block of a ggml type.

    Raises:
        KeyError: ggml has no such type.
    """
    if type_name in _OTHER_BLOCKS:
        return _OTHER_BLOCKS[type_name]
    return FORMATS[type_name].block_elements, FORMATS[type_name].block_bytes


def read_gguf(path: Path, longest_array: int = _LARGEST_ELEMENTS) -> GgufHeader:
    """The header of a GGUF file. Arrays of more than `longest_array` entries become a LongArray.

    Raises:
        ModelFileError: the file is missing, damaged or no GGUF file; names the tensor or the key at fault.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file, longest_array).header()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}); check that the model is complete.") from error


class _Reader:
    """A position in the header; each method reads what its name says and moves on."""

    def __init__(self, path: Path, file: BinaryIO, longest_array: int) -> None:
        self.path, self.file, self.longest = path, file, longest_array
        self.size = path.stat().st_size
        self.data, self.at, self.elements = b"", 0, 0
        self.pairs: dict[str, tuple[int, int]] = {}

    def header(self) -> GgufHeader:
        if self.size < 24 or self.take(4, "its magic") != MAGIC:
            raise ModelFileError(f"{self.path} is not a GGUF file (it does not begin with GGUF).")
        version = self.number("I", "its version")
        if version not in (2, 3):
            large = version & 0xFFFF == 0
            what = "is a GGUF file for big-endian machines" if large else f"is a GGUF file of version {version}"
            raise ModelFileError(f"{self.path} {what}, which is not read; get one of version 3 (little endian).")
        tensors, pairs = self.number("Q", "its counts"), self.number("Q", "its counts")
        self.holds(pairs, _LEAST_PAIR, "metadata entries")
        metadata = self.metadata(pairs)
        alignment = self.alignment(metadata)
        self.holds(tensors, _LEAST_INFO, "tensors")
        infos = [self.info(number) for number in range(tensors)]
        return GgufHeader(version, alignment, metadata, self.places(infos, alignment, metadata), self.pairs)

    def metadata(self, count: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(count):
            start = self.at
            key = self.text("a metadata key")
            if key in found:
                raise self.damage(f"the metadata key {key} is there twice")
            kind = self.number("I", f"metadata {key}")
            if key == ALIGNMENT_KEY and kind != _UINT32:
                raise self.damage(f"metadata {key} is not a 32-bit number")
            found[key] = self.value(kind, f"metadata {key}", 0)
            self.pairs[key] = start, self.at
        return found

    def value(self, kind: int, what: str, depth: int) -> Value:
        if kind in _NUMBERS:
            number: Value = self.number(_NUMBERS[kind], what)
            return number
        if kind == _STRING:
            return self.text(what)
        if kind != _ARRAY:
            raise self.damage(f"{what} has a type that is not known ({kind})")
        if depth == _DEPTH:
            raise self.damage(f"{what} is an array nested more than {_DEPTH} deep")
        inner, count = self.number("I", what), self.number("Q", what)
        least = struct.calcsize(f"<{_NUMBERS[inner]}") if inner in _NUMBERS else 8 if inner == _STRING else 12
        self.holds(count, least, f"entries in {what}")
        if count > self.longest and inner in _NUMBERS:
            self.skip(count * least, what)
            return LongArray(count)
        self.elements += count
        if self.elements > _LARGEST_ELEMENTS:
            raise self.damage(f"{what} brings its metadata to more than {_LARGEST_ELEMENTS} entries")
        if inner in _NUMBERS:
            return list(struct.unpack(f"<{count}{_NUMBERS[inner]}", self.take(count * least, what)))
        if inner == _STRING:
            return self.strings(count, what)
        return [self.value(inner, what, depth + 1) for _ in range(count)]

    def strings(self, count: int, what: str) -> Value:
        """An array of text, which in a vocabulary has hundreds of thousands: without a call for each."""
        kept: list[bytes] | None = [] if count <= self.longest else None
        length = struct.Struct("<Q").unpack_from
        at, data = self.at, self.data
        for _ in range(count):
            start = at + 8
            end = start + length(data, at)[0] if start <= len(data) else start
            if end > len(data) or start > len(data):
                self.at = at
                self.take(self.number("Q", what), what)  # checks, and reads on
                data, end = self.data, self.at
            if kept is not None:
                kept.append(data[start:end])
            at = end
        self.at = at
        if kept is None:
            return LongArray(count)
        try:
            return [text.decode() for text in kept]
        except UnicodeDecodeError as error:
            raise self.damage(f"{what} is not UTF-8 text") from error

    def info(self, number: int) -> tuple[str, tuple[int, ...], str, int]:
        """Name, shape, type and offset of a tensor."""
        name = self.text(f"the name of tensor {number}")
        what = f"tensor {name}"
        dimensions = self.number("I", what)
        if dimensions > _DIMENSIONS:
            raise self.damage(f"{what} claims {dimensions} dimensions")
        extents = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions, what))
        kind, offset = self.number("I", what), self.number("Q", what)
        if kind not in _TYPE_NAMES:
            raise self.damage(f"{what} has a type that is not known ({kind})")
        return name, tuple(reversed(extents)), _TYPE_NAMES[kind], offset

    def places(
        self, infos: list[tuple[str, tuple[int, ...], str, int]], alignment: int, metadata: dict[str, Value]
    ) -> dict[str, TensorHeader]:
        """The tensors, each checked to lie behind the one before."""
        start = -(-self.at // alignment) * alignment
        found: dict[str, TensorHeader] = {}
        expected = end = 0
        for name, shape, kind, offset in infos:
            if name in found:
                raise self.damage(f"tensor {name} is there twice")
            elements, size = block_of(kind)
            row = shape[-1] if shape else 1
            if row % elements:
                raise self.damage(f"tensor {name} has rows of {row}, which do not divide into blocks of {kind}")
            if offset != expected:
                wrong = "overlaps the one before it" if offset < end else "does not begin where the one before it ends"
                raise self.damage(f"tensor {name} {wrong} (at {offset}, expected {expected})")
            end = offset + prod(shape) // elements * size
            if start + end > self.size:
                raise ModelFileError(
                    f"{self.path} is truncated: tensor {name} ends at byte {start + end} of {self.size}; "
                    "download the file again."
                )
            expected = -(-end // alignment) * alignment
            known = metadata.get(SHAPE_KEY + name)
            if isinstance(known, list) and all(type(extent) is int and extent >= 0 for extent in known):
                before = tuple(extent for extent in known if isinstance(extent, int))
                shape = before if prod(before) == prod(shape) else shape
            found[name] = TensorHeader(kind, shape, start + offset, start + end)
        if infos and self.size > start + expected:
            raise self.damage(f"there are {self.size - start - end} bytes behind its last tensor")
        return found

    def alignment(self, metadata: dict[str, Value]) -> int:
        value = metadata.get(ALIGNMENT_KEY, _DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or value <= 0 or value & (value - 1):
            raise self.damage(f"metadata {ALIGNMENT_KEY} is {value}, which is no power of two")
        return value

    def number(self, code: str, what: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))
        return value  # type: ignore[no-any-return]

    def text(self, what: str) -> str:
        length = self.number("Q", what)
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise self.damage(f"{what} is not UTF-8 text") from error

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        self.skip(count, what)
        if self.at > len(self.data):
            missing = max(self.at - len(self.data), len(self.data), _FIRST_READ)  # twice as much each time
            self.data += self.file.read(min(missing, self.size - len(self.data)))
            if self.at > len(self.data):
                raise self.damage(f"it ends in {what}")  # it was made shorter meanwhile
        return self.data[self.at - count : self.at]

    def skip(self, count: int, what: str) -> None:
        """Move on without reading."""
        if self.at + count > self.size:
            raise ModelFileError(f"{self.path} is truncated: it ends in {what}; download the file again.")
        if self.at + count > _LARGEST_HEADER:
            raise self.damage(f"{what} reaches beyond the {_LARGEST_HEADER} bytes that a header may have")
        self.at += count

    def holds(self, count: int, least: int, what: str) -> None:
        """Check a count against the bytes that are left."""
        if count * least > self.size - self.at:
            raise self.damage(f"it claims {count} {what}, more than the file has room for")

    def damage(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path} is damaged: {what}; download the file again.")
