"""What decodes each stored format while its speed is measured: the code that packed layers decode with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_ROW = 256  # elements taken as a block of a format that has none


@dataclass(frozen=True)
class Decoder:
    """How a format is decoded: `decode(blocks, dtype)` makes numbers [n, block_elements] of uint8 [n, block_bytes]."""

    block_elements: int
    block_bytes: int
    decode: Callable[[torch.Tensor, torch.dtype], torch.Tensor]
    what: str


def eager() -> dict[str, Decoder]:
    """core.precision's decoder of every format that must be decoded before it is multiplied, by ggml's name.

    A decoder's first call on a device lets core.precision choose between torch's operations and a kernel of its own,
    where it has one; the choice is kept for packed layers.
    """
    # by name, since the rooms hardware and precision import one another nowhere
    formats: dict[str, Any] = importlib.import_module("core.precision.formats").FORMATS
    found = {}
    for entry in formats.values():
        if entry.packed:
            elements, size = entry.block_elements, entry.block_bytes
        elif entry.name == "F8_E4M3":
            elements = size = _ROW
        else:
            continue
        found[entry.name] = Decoder(elements, size, _Ours(entry, elements), "the decoders of packed layers")
    return found


class _Ours:
    """core.precision.decode for one format, after it was found out which code is the faster on the device."""

    def __init__(self, entry: Any, elements: int) -> None:
        self._entry, self._elements = entry, elements
        self._codec = importlib.import_module("core.precision.codec")
        self._kernels = importlib.import_module("core.precision.kernels")
        self._chosen: set[torch.device] = set()

    def __call__(self, blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Numbers [n, elements] of blocks [n, bytes]."""
        if blocks.device not in self._chosen:
            self._chosen.add(blocks.device)
            self._kernels.choose(blocks, self._entry, dtype)
        numbers: torch.Tensor = self._codec.decode(blocks, self._entry.name, (len(blocks), self._elements), dtype)
        return numbers
