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
FACTORS = "factors"  # that of what each row is multiplied by when it has been decoded, where that differs


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

    def __init__(self, linear: nn.Linear, stored: str, scratch: Scratch, factors: torch.Tensor | None = None) -> None:
        """Takes the place of `linear`, whose weight's shape and dtype it computes with.

        `factors` (float32 [1] or [rows]) are what decoded numbers are to be multiplied by; several become a buffer.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.stored, self.scratch = stored, scratch
        self._shape = (linear.out_features, linear.in_features)
        self._dtype = linear.weight.dtype
        self._shown = torch.empty(self._shape, dtype=self._dtype, device="meta")
        self.register_buffer(PACKED, _room(self._shape, stored))
        self._scale = _scale(self, factors)
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
        return functional.linear(input, _scaled(weight, self._scale, self._buffers.get(FACTORS)), self.bias)


class PackedEmbedding(nn.Embedding):
    """An embedding with packed rows."""

    def __init__(self, embedding: nn.Embedding, stored: str, factors: torch.Tensor | None = None) -> None:
        """Takes the place of `embedding`. `factors` as in `PackedLinear`."""
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self.padding_idx, self.max_norm = embedding.padding_idx, None
        self.stored = stored
        self._shape = (embedding.num_embeddings, embedding.embedding_dim)
        self._dtype = embedding.weight.dtype
        self._shown = torch.empty(self._shape, dtype=self._dtype, device="meta")
        self.register_buffer(PACKED, _room(self._shape, stored))
        self._scale = _scale(self, factors)
        self.train(embedding.training)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """What it computes with, without numbers."""
        return self._shown

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (the name in nn.Linear)
        """Decode the rows that are asked for."""
        packed = self._buffers[PACKED]
        assert packed is not None
        asked, factors = input.reshape(-1), self._buffers.get(FACTORS)
        rows = decode_rows(packed, self.stored, self._shape, asked, self._dtype)
        rows = _scaled(rows, self._scale, None if factors is None else factors[asked])
        return rows.view(*input.shape, self.embedding_dim)


def pack(
    module: nn.Module,
    formats: Mapping[str, str],
    scratch: Scratch,
    factors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Put packed layers where `formats` (by the weight's name in the network) asks for a format that is held packed.

    Their packed bytes are still to come: the buffers are on the meta device. Layers that share a weight (embeddings)
    share the buffer; `formats`, and `factors` where there are any, name the weight in each of them.
    """
    factors = factors or {}
    buffers: dict[int, torch.Tensor] = {}
    for path, layer in list(module.named_modules()):
        for name, child in list(layer.named_children()):
            full = f"{path}.{name}.weight" if path else f"{name}.weight"
            stored = formats.get(full)
            if stored is None or not FORMATS[stored].held_packed:
                continue
            weight = id(child.weight)
            packed = _packed(child, full, stored, scratch, factors.get(full))
            packed._buffers[PACKED] = buffers.setdefault(weight, packed.get_buffer(PACKED))
            setattr(layer, name, packed)


def _packed(
    layer: nn.Module, path: str, stored: str, scratch: Scratch, factors: torch.Tensor | None
) -> PackedLinear | PackedEmbedding:
    if type(layer) is nn.Linear:
        return PackedLinear(layer, stored, scratch, factors)
    if type(layer) is nn.Embedding:
        return PackedEmbedding(layer, stored, factors)
    raise TypeError(f"{path} is a {type(layer).__name__}, which cannot stay packed")


def _room(shape: tuple[int, int], stored: str) -> torch.Tensor:
    rows, columns = shape
    return torch.empty(rows, FORMATS[stored].bytes_of((1, columns)), dtype=torch.uint8, device="meta")


def _scale(layer: nn.Module, factors: torch.Tensor | None) -> float:
    """The one factor of a layer's numbers; where each row has its own, a buffer for these, which are still to come."""
    if factors is None:
        return 1.0
    if factors.numel() == 1:
        return float(factors)
    layer.register_buffer(FACTORS, torch.empty(factors.numel(), 1, dtype=torch.float32, device="meta"))
    return 1.0


def _scaled(numbers: torch.Tensor, scale: float, factors: torch.Tensor | None) -> torch.Tensor:
    """Numbers decoded from F8, multiplied in place: in float32, rounded once, so that every dtype gets its nearest.

    Three bits of mantissa are exact in any dtype before that.
    """
    if factors is not None:
        return numbers.mul_(factors)
    return numbers if scale == 1.0 else numbers.mul_(scale)
