"""How a network is cut into slabs: one contiguous range of bytes for each block, and one for what lies outside of them.

Layers that are folded (core.residency.folding) have slabs of their own: they pass through before the network runs.

In a slab every tensor begins at a multiple of 256 bytes, resident or streamed, so that no kernel can tell where its
weights were (some choose their order of summation by alignment).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from core.residency.blocks import blocks

ALIGNMENT = 256


@dataclass(frozen=True)
class Piece:
    """One tensor in a slab: `path` names it in the network, `offset` and `nbytes` its place."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """The tensor in a buffer (uint8) that holds the slab."""
        return self.bytes_in(buffer).view(self.dtype).view(self.shape)

    def bytes_in(self, buffer: torch.Tensor) -> torch.Tensor:
        """Its bytes in a buffer that holds the slab: uint8 [nbytes]."""
        return buffer[self.offset : self.offset + self.nbytes]


@dataclass(frozen=True)
class Slab:
    """The tensors of one block, or of what lies outside of blocks; `size` in bytes."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Bytes of all, each tensor rounded up to ALIGNMENT."""
        return sum(aligned(piece.nbytes) for piece in self.pieces)


@dataclass(frozen=True)
class Division:
    """A network in slabs. `blocks` are in execution order, each with its module; `rest` is always resident.

    `same` gives for a tensor that has several names (shared weights) the one name under which it lies in a slab.
    `folded` are layers that are not needed while the network runs, each in the slab that has the layer's name.
    """

    rest: Slab
    blocks: tuple[tuple[nn.Module, Slab], ...]
    same: Mapping[str, tuple[str, ...]]
    folded: tuple[Slab, ...] = ()

    @property
    def slabs(self) -> tuple[Slab, ...]:
        """What lies outside of blocks, then the blocks', then the folded layers'."""
        return (self.rest, *(slab for _, slab in self.blocks), *self.folded)

    @property
    def size(self) -> int:
        """Bytes with every block resident."""
        return self.rest.size + sum(slab.size for _, slab in self.blocks)

    @property
    def folded_bytes(self) -> int:
        """Bytes that are not on the device while the network runs."""
        return sum(slab.size for slab in self.folded)


def aligned(size: int) -> int:
    """`size` rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def divide(
    module: nn.Module, dtypes: Mapping[str, torch.dtype] | None = None, folded: Collection[str] = ()
) -> Division:
    """Cut a network into slabs by its block list. Tensors that two blocks share lie outside of blocks.

    Args:
        module: with real parameters, or with parameters on the meta device.
        dtypes: what tensors are held in, by name, where that is not their own dtype.
        folded: names of layers that get slabs of their own.
    """
    paths: dict[int, list[str]] = {}
    tensors: dict[str, torch.Tensor] = {}
    for path, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        if id(tensor) not in paths:
            tensors[path] = tensor
        paths.setdefault(id(tensor), []).append(path)
    same = {names[0]: tuple(names) for names in paths.values()}
    first = {name: names[0] for names in paths.values() for name in names}

    found = [block for block in blocks(module) if block is not module]
    prefix = {id(part): name for name, part in module.named_modules()}
    inside: dict[str, int] = {}
    shared: set[str] = set()
    for number, block in enumerate(found):
        own = [*block.named_parameters(remove_duplicate=False), *block.named_buffers(remove_duplicate=False)]
        for name, _ in own:
            path = first[f"{prefix[id(block)]}.{name}"]
            if inside.setdefault(path, number) != number:
                shared.add(path)
    for path, number in list(inside.items()):
        start = prefix[id(found[number])] + "."
        if path in shared or not all(name.startswith(start) for name in same[path]):
            del inside[path]  # others use it too, when its block may be away

    apart: dict[str, list[str]] = {name: [] for name in folded}
    for path in tensors:
        if (layer := path.rpartition(".")[0]) in apart:
            apart[layer].append(path)
            inside.pop(path, None)
    away = {path for paths in apart.values() for path in paths}

    dtypes = dtypes or {}

    def slab(name: str, members: list[str]) -> Slab:
        pieces, offset = [], 0
        for path in members:
            tensor = tensors[path]
            pieces.append(Piece(path, tuple(tensor.shape), dtypes.get(path, tensor.dtype), offset))
            offset += aligned(pieces[-1].nbytes)
        return Slab(name, tuple(pieces))

    members: list[list[str]] = [[] for _ in found]
    for path, number in inside.items():
        members[number].append(path)
    cut = tuple((block, slab(prefix[id(block)], names)) for block, names in zip(found, members, strict=True) if names)
    rest = slab("rest", [path for path in tensors if path not in inside and path not in away])
    return Division(rest, cut, same, tuple(slab(name, names) for name, names in apart.items()))
