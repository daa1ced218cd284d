"""The numbers of a stored tensor, a stretch at a time: what a conversion reads."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import msgspec
import torch

from core.messages import ModelFileError
from core.models.gguf_header import block_of
from core.models.headers import ELEMENT_BYTES
from core.models.scales import with_scales
from core.models.stored import Stored, cut
from core.precision.codec import decode
from core.precision.formats import FORMATS
from core.residency.store import OpenFile

# Elements read at once: whole blocks of every format, and small beside the memory that a conversion may take.
STRETCH = 1 << 20

_INTEGERS = {"I8", "I16", "I32", "I64"}  # those that GGUF has
_NATIVE = {"F64": torch.float64, "F8_E5M2": torch.float8_e5m2}


class SourceTensor(msgspec.Struct, frozen=True):
    """A tensor to be converted, and what its numbers are to be multiplied by: nothing, one factor, or one by row."""

    stored: Stored
    factors: tuple[float, ...] = ()

    @property
    def integers(self) -> bool:
        """Whether it is copied as it is: position ids and the like."""
        return self.stored.type in _INTEGERS

    @property
    def decodable(self) -> bool:
        """Whether its numbers can be read."""
        return self.stored.type in FORMATS or self.stored.type in _NATIVE


def sources(
    tensors: Mapping[str, Stored], factors: Mapping[str, tuple[float, ...]] | None = None
) -> dict[str, SourceTensor]:
    """The tensors to convert; factors of F8 tensors go with what they belong to.

    Args:
        factors: those of tensors that do not name theirs.

    Raises:
        ModelFileError: a type that GGUF does not have, or factors that are not understood; names the tensor.
    """
    found: dict[str, SourceTensor] = {}
    for name, tensor in with_scales(tensors).items():
        source = SourceTensor(tensor, (factors or {}).get(name) or factors_of(tensor))
        if tensor.type in ELEMENT_BYTES and not (source.integers or source.decodable):
            raise ModelFileError(
                f"{tensor.file}: {name} is stored as {tensor.type}, which GGUF does not have; convert from the model "
                "as it was before it was packed."
            )
        found[name] = source
    return found


def factors_of(tensor: Stored) -> tuple[float, ...]:
    """What a tensor's numbers are to be multiplied by: nothing, one factor, or one for each row.

    Raises:
        ModelFileError: there are factors of another kind.
    """
    scale, rows = tensor.scale, prod(tensor.shape[:-1])
    if scale is None:
        return ()
    if scale.elements not in (1, rows) or not SourceTensor(scale).decodable:
        raise ModelFileError(
            f"{scale.file}: {scale.name} has {scale.elements} factors for the {rows} rows of {tensor.name}, which is "
            "not read; convert from the model in BF16."
        )
    return tuple(Reader().numbers(SourceTensor(scale), 0, scale.elements).tolist())


class Reader:
    """Open files and buffers; one for each thread."""

    def __init__(self) -> None:
        self._files: dict[Path, OpenFile] = {}
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def raw(self, tensor: Stored, first: int, count: int) -> torch.Tensor:
        """The bytes of `count` numbers from `first` on (multiples of the type's block), valid until the next call."""
        elements, size = (1, ELEMENT_BYTES[tensor.type]) if tensor.type in ELEMENT_BYTES else block_of(tensor.type)
        start, wanted = first // elements * size, count // elements * size
        if self._bytes.numel() < wanted:
            self._bytes = torch.empty(wanted, dtype=torch.uint8)
        target = self._bytes[:wanted]
        view, at = memoryview(target.numpy()), 0  # type: ignore[arg-type]
        for part in cut(tensor.ranges, start, start + wanted):
            if part.file not in self._files:
                self._files[part.file] = OpenFile(part.file)
            end = at + part.end - part.start
            self._files[part.file].read(tensor.name, part.start, view[at:end])
            at = end
        return target

    def numbers(self, source: SourceTensor, first: int, count: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """The same as float32 [count].

        Raises:
            ModelFileError: one is not finite; names file, tensor, row and column.
        """
        tensor = source.stored
        raw = self.raw(tensor, first, count)
        target = torch.empty(count) if out is None else out[:count]
        if tensor.type in _NATIVE:
            target.copy_(raw.view(_NATIVE[tensor.type]))
        else:
            decode(raw, tensor.type, (count,), out=target)
        if len(source.factors) == 1:
            target.mul_(source.factors[0])
        elif source.factors:
            rows = torch.arange(first, first + count) // (tensor.elements // len(source.factors))
            target.mul_(torch.tensor(source.factors)[rows])
        self._check(target, tensor, first)
        return target

    def _check(self, numbers: torch.Tensor, tensor: Stored, first: int) -> None:
        if not numbers.numel():
            return
        lowest, highest = (float(value) for value in torch.aminmax(numbers))
        limit = torch.finfo(torch.float32).max
        if -limit <= lowest and highest <= limit:
            return
        at = int((~torch.isfinite(numbers)).nonzero()[0])
        row = tensor.shape[-1] if tensor.shape else 1
        raise ModelFileError(
            f"{tensor.file}: tensor {tensor.name} has {float(numbers[at])} at row {(first + at) // row}, column "
            f"{(first + at) % row}, which no format can keep; get an undamaged copy of the model."
        )
