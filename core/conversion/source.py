"""The numbers of a stored tensor, a stretch at a time: what a conversion reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch

from core.messages import ModelFileError
from core.models.gguf_header import block_of
from core.models.headers import ELEMENT_BYTES
from core.models.stored import Stored, cut
from core.precision.codec import decode
from core.precision.formats import FORMATS
from core.residency.store import OpenFile

# Elements read at once: whole blocks of every format, and small beside the memory that a conversion may take.
STRETCH = 1 << 20

# How single-file checkpoints call the factor that a tensor in F8 is to be multiplied by (ComfyUI, comfy/ops.py:
# scale_weight; compressed-tensors: weight_scale), and what stands beside it for computing in F8.
_SCALES = ("scale_weight", "weight_scale")
_BESIDE = ("scale_input", "input_scale", "scaled_fp8")
_INTEGERS = {"I8", "I16", "I32", "I64"}  # those that GGUF has
_NATIVE = {"F64": torch.float64, "F8_E5M2": torch.float8_e5m2}


class SourceTensor(msgspec.Struct, frozen=True):
    """A tensor to be converted, and the factor that its numbers are to be multiplied by."""

    stored: Stored
    scale: float = 1.0

    @property
    def integers(self) -> bool:
        """Whether it is copied as it is: position ids and the like."""
        return self.stored.type in _INTEGERS

    @property
    def decodable(self) -> bool:
        """Whether its numbers can be read."""
        return self.stored.type in FORMATS or self.stored.type in _NATIVE


def sources(tensors: Mapping[str, Stored]) -> dict[str, SourceTensor]:
    """The tensors to convert; factors of F8 tensors go with what they belong to.

    Raises:
        ModelFileError: a type that GGUF does not have, or factors for each row; names the tensor.
    """
    reader = Reader()
    kinds = {tensor.type for tensor in tensors.values()}
    eights = bool(kinds & {"F8_E4M3", "F8_E5M2"})
    found: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        owner, _, last = name.rpartition(".")
        if eights and last in (*_SCALES, *_BESIDE):
            continue
        scale = 1.0
        if tensor.type.startswith("F8") and last == "weight":
            beside = next((tensors[f"{owner}.{key}"] for key in _SCALES if f"{owner}.{key}" in tensors), None)
            if beside is not None:
                if beside.elements != 1:
                    raise ModelFileError(
                        f"{beside.file}: {beside.name} scales {beside.elements} rows by themselves, which is not "
                        "read; convert from the model in BF16."
                    )
                scale = float(reader.numbers(SourceTensor(beside), 0, 1)[0])
        source = SourceTensor(tensor, scale)
        if tensor.type in ELEMENT_BYTES and not (source.integers or source.decodable):
            raise ModelFileError(
                f"{tensor.file}: {name} is stored as {tensor.type}, which GGUF does not have; convert from the model "
                "as it was before it was packed."
            )
        found[name] = source
    return found


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
        if source.scale != 1.0:
            target.mul_(source.scale)
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
