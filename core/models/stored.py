"""Where the tensors of a component lie in its files, under the names that its library gives them. No torch.

In safetensors a tensor is one range of bytes. In a file for a whole model it may be rows of a larger tensor, or several
of them: projections that the original code keeps in one, halves that it has the other way round.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import msgspec

from core.messages import ModelFileError
from core.models.gguf_header import MAGIC, block_of, read_gguf
from core.models.headers import ELEMENT_BYTES, TensorHeader, read_safetensors
from core.models.info import ComponentInfo
from core.models.scales import with_scales

NAMES = "residency.names."
"""Begins the metadata key that says for a component (whose name follows) where each of its tensors is."""

Rows = tuple[str, int, int]
"""A tensor of the file, the first of its rows that counts, and how many do."""


class Range(msgspec.Struct, frozen=True):
    """Bytes of a file."""

    file: Path
    start: int
    end: int


class Stored(msgspec.Struct, frozen=True):
    """A tensor: its type by ggml's or safetensors' name, its shape, and the ranges that are its bytes, in order.

    Its numbers are to be multiplied by `scale`, if there is one: a tensor of one number, or of one for each row.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    ranges: tuple[Range, ...]
    scale: Stored | None = None

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def file(self) -> Path:
        """The file that it begins in."""
        return self.ranges[0].file

    @property
    def bytes(self) -> int:
        """How many bytes it takes in its files."""
        return sum(found.end - found.start for found in self.ranges)

    def rows(self, first: int, count: int) -> tuple[Range, ...]:
        """The bytes of some of its rows (entries of its first dimension)."""
        size = bytes_of(self.type, self.shape[1:]) if self.shape else self.bytes
        return cut(self.ranges, first * size, (first + count) * size)


class Place(msgspec.Struct, frozen=True):
    """Where a file for a whole model has a tensor of a component, and the shape that the component knows it by."""

    shape: tuple[int, ...]
    rows: tuple[Rows, ...]


def cut(ranges: Sequence[Range], start: int, end: int) -> tuple[Range, ...]:
    """The part from byte `start` to byte `end` of what ranges are together."""
    found = []
    at = 0
    for entry in ranges:
        size = entry.end - entry.start
        first, last = max(start - at, 0), min(end - at, size)
        if first < last:
            found.append(Range(entry.file, entry.start + first, entry.start + last))
        at += size
    return tuple(found)


def bytes_of(type_name: str, shape: tuple[int, ...]) -> int:
    """Bytes of numbers of a type, whole blocks."""
    if type_name in ELEMENT_BYTES:
        return prod(shape) * ELEMENT_BYTES[type_name]
    elements, size = block_of(type_name)
    return prod(shape) // elements * size


def stored_tensors(component: ComponentInfo) -> dict[str, Stored]:
    """The tensors of a component by their names there.

    Raises:
        ModelFileError: a file is missing or damaged; names it.
    """
    if component.placed is not None:
        return dict(component.placed)
    found: dict[str, Stored] = {}
    for name in component.files:
        file = Path(name)
        found |= _in_gguf(file, component.name) if is_gguf(file) else in_file(file)
    return with_scales(found)


def is_gguf(file: Path) -> bool:
    """Whether a file begins as GGUF does. Raises ModelFileError where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read ({error.strerror}); check that the model is complete.") from error


def in_file(file: Path) -> dict[str, Stored]:
    """All tensors of a file under their names there. Raises ModelFileError as the readers of headers do."""
    if is_gguf(file):
        return _of_headers(file, read_gguf(file, 64).tensors, 0)
    header = read_safetensors(file)
    return _of_headers(file, header.tensors, header.data_start)


def _of_headers(file: Path, headers: Mapping[str, TensorHeader], data: int) -> dict[str, Stored]:
    """`data` is the byte that positions count from."""
    return {
        name: Stored(name, tensor.type, tensor.shape, (Range(file, data + tensor.start, data + tensor.end),))
        for name, tensor in headers.items()
    }


def _in_gguf(file: Path, component: str) -> dict[str, Stored]:
    status = file.stat()
    tensors, places = _header(file, status.st_size, status.st_mtime_ns)
    if component not in places:
        raise ModelFileError(f"{file} does not say where its {component} is; convert the model again.")
    return {name: resolve(file, component, name, place, tensors) for name, place in places[component].items()}


@functools.lru_cache(4)  # asked for each component of a model
def _header(file: Path, size: int, time: int) -> tuple[dict[str, Stored], dict[str, dict[str, Place]]]:
    header = read_gguf(file, 64)
    places = {}
    for key, value in header.metadata.items():
        if key.startswith(NAMES) and isinstance(value, str):
            try:
                places[key.removeprefix(NAMES)] = msgspec.json.decode(value, type=dict[str, Place])
            except msgspec.MsgspecError as error:
                raise ModelFileError(
                    f"{file} is damaged: metadata {key} ({error}); download the file again."
                ) from error
    return _of_headers(file, header.tensors, 0), places


def resolve(file: Path, component: str, name: str, place: Place, tensors: Mapping[str, Stored]) -> Stored:
    """What a place in a file is.

    Args:
        tensors: those of the file, under their names there.

    Raises:
        ModelFileError: the file has no such place.
    """
    kinds: set[str] = set()
    ranges: list[Range] = []
    scales: list[Stored | None] = []
    wrong = ModelFileError(
        f"{file} is damaged: what it says of {name} in its {component} does not fit its tensors; download it again."
    )
    for owner, first, count in place.rows:
        if owner not in tensors:
            raise ModelFileError(f"{file} lacks the tensor {owner}, part of its {component}; download the file again.")
        whole = tensors[owner]
        rows = whole.shape[0] if whole.shape else 1
        if first < 0 or count < 0 or first + count > rows:
            raise wrong
        kinds.add(whole.type)
        if count == rows:  # packed blocks may cross its rows, which matters to nobody who takes them all
            ranges += whole.ranges
        elif _block(whole.type) > 1 and (len(whole.shape) < 2 or whole.shape[-1] % _block(whole.type)):
            raise wrong
        else:
            ranges += whole.rows(first, count)
        scales.append(_scale_of(whole, first, count))
    if len(kinds) != 1 or min(place.shape, default=0) < 0 or any(scale != scales[0] for scale in scales):
        raise wrong
    found = Stored(name, next(iter(kinds)), place.shape, tuple(ranges), scales[0])
    if found.elements % _block(found.type) or found.bytes != bytes_of(found.type, found.shape):
        raise wrong
    return found


def _scale_of(whole: Stored, first: int, count: int) -> Stored | None:
    """What some rows of a tensor are to be multiplied by."""
    scale = whole.scale
    if scale is None or scale.elements == 1 or count == whole.shape[0]:
        return scale
    shape = (count, *scale.shape[1:])
    return msgspec.structs.replace(scale, shape=shape, ranges=scale.rows(first, count))


def _block(type_name: str) -> int:
    """The numbers of a type that are stored together."""
    return 1 if type_name in ELEMENT_BYTES else block_of(type_name)[0]
