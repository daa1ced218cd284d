"""Layers whose weights stay packed on the device: a linear one decodes them just before it multiplies, an embedding
only the rows it needs.

They still are nn.Linear and nn.Embedding to whoever looks, and their `weight` shows shape and dtype of what they
compute with (T5 casts its activations to it), but no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from core.precision.codec import decode, decode_rows
from core.precision.formats import FORMATS

PACKED = "packed"  # the buffer's name in the layer


class Scratch:
    """The one buffer that packed weights are decoded into, on the device; every layer of a network shares it."""

    def __init__(self) -> None:
        self.buffer: torch.Tensor | None = None  # uint8; without it every layer takes memory of its own

    def view(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
        """The beginning of the buffer as a tensor, or None where there is no buffer or it is too small."""
        size = math.prod(shape) * dtype.itemsize
        if self.buffer is None or self.buffer.nbytes < size:
            return None
        return self.buffer[:size].view(dtype).view(shape)


class PackedLinear(nn.Linear):
    """A linear layer with packed weights."""

    def __init__(self, linear: nn.Linear, stored: str, scratch: Scratch) -> None:
        """Takes the place of `linear`, whose weight's shape and dtype it computes with."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.stored, self.scratch = stored, scratch
        self._shape = (linear.out_features, linear.in_features)
        self._dtype = linear.weight.dtype
        self._shown = torch.empty(self._shape, dtype=self._dtype, device="meta")
        self.register_buffer(PACKED, _room(self._shape, stored))
        self.register_parameter("bias", linear.bias)
        self.train(linear.training)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """What it computes with, without numbers."""
        return self._shown

    @property
    def scratch_bytes(self) -> int:
        """What decoding needs."""
        return math.prod(self._shape) * self._dtype.itemsize

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name in nn.Linear)
        """Decode, then multiply."""
        packed = self._buffers[PACKED]
        assert packed is not None
        weight = decode(packed, self.stored, self._shape, self._dtype, out=self.scratch.view(self._shape, self._dtype))
        return functional.linear(input, weight, self.bias)


class PackedEmbedding(nn.Embedding):
    """An embedding with packed rows."""

    def __init__(self, embedding: nn.Embedding, stored: str) -> None:
        """Takes the place of `embedding`."""
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx, self.max_norm = embedding.padding_idx, None
        self.stored = stored
        self._shape = (embedding.num_embeddings, embedding.embedding_dim)
        self._dtype = embedding.weight.dtype
        self._shown = torch.empty(self._shape, dtype=self._dtype, device="meta")
        self.register_buffer(PACKED, _room(self._shape, stored))
        self.train(embedding.training)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """What it computes with, without numbers."""
        return self._shown

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name in nn.Linear)
        """Decode the rows that are asked for."""
        packed = self._buffers[PACKED]
        assert packed is not None
        rows = decode_rows(packed, self.stored, self._shape, input.reshape(-1), self._dtype)
        return rows.view(*input.shape, self.embedding_dim)


def pack(module: nn.Module, formats: Mapping[str, str], scratch: Scratch) -> None:
    """Put packed layers where `formats` (by the weight's name in the network) asks for a packed format.

    Their packed bytes are still to come: the buffers are on the meta device. Layers that share a weight (embeddings)
    share the buffer; `formats` names the weight in each of them.
    """
    buffers: dict[int, torch.Tensor] = {}
    for path, layer in list(module.named_modules()):
        for name, child in list(layer.named_children()):
            full = f"{path}.{name}.weight" if path else f"{name}.weight"
            stored = formats.get(full)
            if stored is None or not FORMATS[stored].packed:
                continue
            weight = id(child.weight)
            packed = _packed(child, full, stored, scratch)
            packed._buffers[PACKED] = buffers.setdefault(weight, packed.get_buffer(PACKED))
            setattr(layer, name, packed)


def _packed(layer: nn.Module, path: str, stored: str, scratch: Scratch) -> nn.Module:
    if type(layer) is nn.Linear:
        return PackedLinear(layer, stored, scratch)
    if type(layer) is nn.Embedding:
        return PackedEmbedding(layer, stored)
    raise TypeError(f"{path} is a {type(layer).__name__}, which cannot stay packed")


def _room(shape: tuple[int, int], stored: str) -> torch.Tensor:
    rows, columns = shape
    return torch.empty(rows, FORMATS[stored].bytes_of((1, columns)), dtype=torch.uint8, device="meta")
