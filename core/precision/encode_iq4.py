"""Encoders of IQ4_NL and IQ4_XS: four bits choose among sixteen fixed values that lie closer near zero.

They take blocks [n, 32] or [n, 256] of float32 and their weights of importance or None, and give ggml's
bytes (ggml-quants.c: quantize_row_iq4_nl_impl with ntry = 7).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from core.precision import compiled
from core.precision.decode_32 import IQ4_VALUES
from core.precision.exact import TINY, nearest_int, quotient, sum_rows
from core.precision.importance import Weights, importance_weights
from core.precision.layout import columns, elements, half_bytes, packed, stored
from core.precision.scratch import Scratch
from core.precision.search import ZERO, first_extreme

_TRIES = 7


class _Nearest:
    """The nearest of the sixteen values, of two equally near the higher one.

    The points half way between two neighbours are multiples of one half, and ggml's comparison of the two distances is
    exact beside them: so a table over floor(2 x) decides as it does.
    """

    def __init__(self, device: torch.device) -> None:
        middles = [low + high for low, high in pairwise(IQ4_VALUES)]
        chosen = [sum(place >= middle for middle in middles) for place in range(-256, 256)]
        self._indices = torch.tensor(chosen, dtype=torch.int8, device=device)
        self._values = torch.tensor([IQ4_VALUES[index] for index in chosen], dtype=torch.float32, device=device)

    def _places(self, x: Tensor, inverse: Tensor, scratch: Scratch) -> Tensor:
        places = torch.mul(x, inverse * 2, out=scratch.floats("places", tuple(x.shape)))
        places.floor_().clamp_(-256, 255).add_(256)
        return scratch.take("index", tuple(x.shape), torch.int32).copy_(places).view(-1)

    def values(self, x: Tensor, inverse: Tensor, scratch: Scratch) -> Tensor:
        """The value nearest to x * inverse, float32 [size, B]."""
        out = scratch.floats("value", tuple(x.shape))
        torch.index_select(self._values, 0, self._places(x, inverse, scratch), out=out.view(-1))
        return out

    def indices(self, x: Tensor, inverse: Tensor, scratch: Scratch) -> Tensor:
        """Its place in the table, int8 [size, B]."""
        return self._indices.index_select(0, self._places(x, inverse, scratch)).view(x.shape)


def iq4_nl(x: Tensor, importance: Weights | None, scratch: Scratch) -> Tensor:
    """One scale for 32 weights."""
    nearest = _Nearest(x.device)
    parts = columns(x, 32, scratch)
    scale = fit_levels(parts, _weights(x, parts, importance, scratch), nearest, scratch)
    numbers = elements(nearest.indices(parts, _inverse(scale), scratch), len(x), scratch)
    return stored(half_bytes(scale), packed(numbers, 4, 2, 16))


def iq4_xs(x: Tensor, importance: Weights | None, scratch: Scratch) -> Tensor:
    """Signed scales of 6 bits for 32 of 256 weights."""
    n = len(x)
    nearest = _Nearest(x.device)
    parts = columns(x, 32, scratch)
    scale = fit_levels(parts, _weights(x, parts, importance, scratch), nearest, scratch).view(8, n)
    _, extreme = first_extreme(scale)
    d = -(extreme.add_(0.0) / 32)
    small = nearest_int(scale * _inverse(d)).clamp_(-32, 31)
    numbers = elements(nearest.indices(parts, _inverse(d * small).view(-1), scratch), n, scratch)
    small = small.add_(32).to(torch.int8).view(torch.uint8)
    low, high = packed(small & 15, 4, 2, 1), packed(small >> 4, 2, 4, 1)
    return stored(half_bytes(d), high, low, packed(numbers, 4, 2, 16))


def _inverse(d: Tensor) -> Tensor:
    return d.reciprocal().masked_fill_(d == 0, 0.0)


def _weights(x: Tensor, parts: Tensor, importance: Weights | None, scratch: Scratch) -> Tensor:
    """Squares, or ggml's weights of importance with twice the mean square of the whole block."""
    if importance is None:
        return torch.mul(parts, parts, out=scratch.floats("weights", tuple(parts.shape)))
    whole = scratch.floats("whole", (x.shape[1], len(x))).copy_(x.t())
    spread = sum_rows(whole.square_()) * (2 / x.shape[1])
    return importance_weights(parts, importance.columns(32, scratch), spread, scratch)


def fit_levels(x: Tensor, weights: Tensor, nearest: _Nearest, scratch: Scratch) -> Tensor:
    """The scale [B] of x ~ scale * value that fits best."""
    state = torch.empty((2, x.shape[1]), dtype=torch.float32, device=x.device)
    best: Tensor = state[0]
    scale: Tensor = state[1]
    if compiled.search("fit_levels", x, weights, scale):
        return scale
    magnitude, extreme = first_extreme(x)
    zero = magnitude < ZERO
    extreme.masked_fill_(zero, 1.0)
    first = quotient(extreme, -IQ4_VALUES[0]).reciprocal_()
    grid = torch.arange(-_TRIES, _TRIES + 1, dtype=torch.float32, device=x.device) + IQ4_VALUES[0]
    for index, inverse in enumerate((first, *(grid.unsqueeze(1) / extreme))):
        values = nearest.values(x, inverse, scratch)
        product = weights * values
        sum_qx, sum_q2 = sum_rows(product * x), sum_rows(product * values)
        fit = sum_qx / sum_q2.clamp(min=TINY)  # 0 where sum_q2 is 0, as sum_qx is 0 there, too
        new = torch.stack((fit * sum_qx, fit))
        state.copy_(torch.where(sum_qx * sum_qx > best * sum_q2, new, state) if index else new)
    return scale.masked_fill_(zero, 0.0)
