"""Layers with weights in F8 compute with exactly what the weights are in the dtype that they compute with."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from core.residency.packed import FACTORS, PACKED, PackedEmbedding, PackedLinear, Scratch, pack

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def weights(rows: int, columns: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(rows)
    return (torch.randn(rows, columns, generator=chance) * 3).to(torch.float8_e4m3fn)


def factors_of(kind: str, rows: int) -> torch.Tensor | None:
    if kind == "none":
        return None
    return torch.rand(1 if kind == "one" else rows, generator=torch.Generator().manual_seed(2)) * 0.01


def filled(layer: nn.Module, data: torch.Tensor, factors: torch.Tensor | None) -> nn.Module:
    layer._buffers[PACKED] = data.view(torch.uint8)
    if FACTORS in layer._buffers:
        assert factors is not None
        layer._buffers[FACTORS] = factors.view(-1, 1)
    return layer


def expected(data: torch.Tensor, factors: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Multiplied in F32 and rounded once."""
    return (data.float() * (1.0 if factors is None else factors.view(-1, 1))).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["none", "one", "rows"])
def test_layers_decode_and_multiply(dtype: torch.dtype, kind: str) -> None:
    data, factors = weights(24, 40), factors_of(kind, 24)
    dense = expected(data, factors, dtype)
    net = nn.Sequential(nn.Linear(40, 24), nn.Embedding(24, 40)).to(dtype).requires_grad_(False)
    bias = net[0].bias
    scratch = Scratch()
    known = {} if factors is None else {"0.weight": factors, "1.weight": factors}
    pack(net, {"0.weight": "F8_E4M3", "1.weight": "F8_E4M3"}, scratch, known)
    linear, embedding = (filled(layer, data, factors) for layer in net)
    assert isinstance(linear, PackedLinear)
    assert isinstance(embedding, PackedEmbedding)
    assert linear.scratch_bytes == 24 * 40 * dtype.itemsize
    given = torch.randn(5, 40, generator=torch.Generator().manual_seed(3)).to(dtype)
    for room in (None, torch.empty(linear.scratch_bytes, dtype=torch.uint8)):
        scratch.buffer = room
        for _ in range(2):  # what was decoded is multiplied once, not again
            assert torch.equal(linear(given), functional.linear(given, dense, bias))
    asked = torch.tensor([[3, 0], [23, 3]])
    assert torch.equal(embedding(asked), dense[asked])
    assert torch.equal(linear.get_buffer(PACKED), data.view(torch.uint8))
