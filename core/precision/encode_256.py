"""Encoders of the K formats: Q6_K, Q5_K, Q4_K, Q3_K and Q2_K.

Each takes blocks [n, 256] of float32, their weights of importance or None, and gives the stored blocks, uint8
[n, block_bytes]. They follow ggml's quantizers (ggml-quants.c: quantize_row_*_ref without importance,
quantize_row_*_impl with it) and give the same bytes: a scale is searched for each 16 or 32 weights, those scales are
themselves rounded to 4, 6 or 8 bits, and the weights are rounded again with what the file can hold.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from core.precision import compiled
from core.precision.exact import nearest_int, quotient, square_root, sum_rows
from core.precision.greedy import fit_greedily, fit_positive
from core.precision.importance import Weights, importance_weights
from core.precision.layout import columns, elements, half_bytes, packed, stored
from core.precision.scratch import Scratch
from core.precision.search import (
    ZERO,
    Range,
    first_extreme,
    fit_range,
    fit_symmetric,
    symmetric_integers,
)

Found = Callable[[Tensor], Tensor]


def q6_k(x: Tensor, importance: Weights | None, scratch: Scratch) -> Tensor:
    """Signed scales of 8 bits for 16 weights of 6 bits."""
    n = len(x)
    parts = columns(x, 16, scratch)
    if importance is None:
        weights = torch.mul(parts, parts, out=scratch.floats("weights", tuple(parts.shape)))
    else:
        weights = importance.columns(16, scratch)
    scale, inverse = fit_symmetric(parts, weights, 32)
    scale = scale.view(16, n)
    magnitude, extreme = first_extreme(scale)
    zero = magnitude < ZERO
    inverse_of_scales = quotient(-128.0, extreme.masked_fill_(zero, 1.0))
    d = inverse_of_scales.reciprocal().masked_fill_(zero, 0.0)
    small = nearest_int(inverse_of_scales * scale).clamp_(max=127).masked_fill_(zero, 0)
    numbers = _again_symmetric(parts, d, small, 32, _by(parts, inverse, 32), scratch)
    if zero.any():
        numbers.masked_fill_(zero, 0)
    low = numbers & 15
    return stored(
        packed(low, 4, 2, 64),
        packed(numbers >> 4, 2, 4, 32),
        small.to(torch.int8).view(torch.uint8),
        half_bytes(d),
    )


def q5_k(x: Tensor, importance: Weights | None, scratch: Scratch) -> Tensor:
    """Scales and minima of 6 bits for 32 weights of 5 bits."""
    head, numbers = _with_minima(x, importance, 31, (-0.5, 0.1, 15), scratch)
    return stored(head, packed(numbers >> 4, 1, 8, 32), packed(numbers & 15, 4, 2, 32))


def q4_k(x: Tensor, importance: Weights | None, scratch: Scratch) -> Tensor:
    """Scales and minima of 6 bits for 32 weights of 4 bits."""
    head, numbers = _with_minima(x, importance, 15, (-1.0, 0.1, 20), scratch)
    return stored(head, packed(numbers, 4, 2, 32))


def q3_k(x: Tensor, importance: Weights | None, scratch: Scratch) -> Tensor:
    """Signed scales of 6 bits for 16 weights of 3 bits."""
    n = len(x)
    parts = columns(x, 16, scratch)
    if importance is None:
        scale, found = fit_greedily(parts, 4, scratch)
        scale = scale.view(16, n)
        _, extreme = first_extreme(scale)
        zero = extreme == 0
        inverse = quotient(-32.0, extreme.masked_fill_(zero, 1.0))
        small = nearest_int(inverse * scale).clamp_(-32, 31).add_(32).masked_fill_(zero, 0)
        d = inverse.reciprocal_().masked_fill_(zero, 0.0)
        numbers = _again_symmetric(parts, d, small - 32, 4, lambda lost: found.index_select(1, lost), scratch)
    else:
        weights = importance_weights(parts, importance.columns(16, scratch), 2 * _square_sum(x, scratch) / 256, scratch)
        scale, inverse = fit_symmetric(parts, weights, 4)
        scale = scale.view(16, n)
        total = sum_rows(weights).view(16, n)
        d, inverse_of_scales = fit_symmetric(scale, total, 32)
        small = symmetric_integers(scale, inverse_of_scales, 32).to(torch.int32)
        numbers = _again_symmetric(parts, d, small - 32, 4, _by(parts, inverse, 4), scratch)
    small = small.to(torch.int8).view(torch.uint8)
    return stored(
        packed(numbers >> 2, 1, 8, 32),
        packed(numbers & 3, 2, 4, 32),
        packed(small & 15, 4, 2, 8),
        packed(small >> 4, 2, 4, 4),
        half_bytes(d),
    )


def q2_k(x: Tensor, importance: Weights | None, scratch: Scratch) -> Tensor:
    """Scales and minima of 4 bits for 16 weights of 2 bits."""
    n = len(x)
    parts = columns(x, 16, scratch)
    if importance is None:
        weights = torch.abs(parts, out=scratch.floats("weights", tuple(parts.shape)))
        fit = fit_range(parts, weights, 3, -0.5, 0.1, 15, True)
        d, small = _rounded(fit.scale.view(16, n), 15)
        dmin, small_min = _rounded(fit.minimum.view(16, n), 15)
    else:
        weights = importance_weights(parts, importance.columns(16, scratch), _square_sum(x, scratch) / 256, scratch)
        fit = fit_range(parts, weights, 3, -0.9, 0.05, 36, False)
        total = sum_rows(weights).view(16, n)
        d, small = fit_positive(fit.scale.view(16, n), total, 15)
        dmin, small_min = fit_positive(fit.minimum.view(16, n), total, 15)
    numbers = _again(parts, d, small, dmin, small_min, 3, fit, scratch)
    both = small.to(torch.int8) | small_min.to(torch.int8) << 4
    return stored(both.view(torch.uint8), packed(numbers, 2, 4, 32), half_bytes(d), half_bytes(dmin))


def _with_minima(
    x: Tensor, importance: Weights | None, nmax: int, grid: tuple[float, float, int], scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """What Q4_K and Q5_K share: their first 16 bytes [16, n] and the weights' integers [256, n]."""
    n = len(x)
    parts = columns(x, 32, scratch)
    if importance is None:
        weights = scratch.floats("weights", tuple(parts.shape))
        average = sum_rows(torch.mul(parts, parts, out=weights)).div_(32)
        torch.abs(parts, out=weights).add_(square_root(average, scratch))
        fit = fit_range(parts, weights, nmax, *grid, False)
        d, small = _rounded(fit.scale.view(8, n), 63)
        dmin, small_min = _rounded(fit.minimum.view(8, n), 63)
    else:
        weights = importance_weights(parts, importance.columns(32, scratch), 2 * _square_sum(x, scratch) / 256, scratch)
        fit = fit_range(parts, weights, nmax, -0.9, 0.05, 36, False)
        total = sum_rows(weights).view(8, n)
        d, small = fit_positive(fit.scale.view(8, n), total, 63)
        dmin, small_min = fit_positive(fit.minimum.view(8, n), total, 63)
    numbers = _again(parts, d, small, dmin, small_min, nmax, fit, scratch)
    scales, minima = (values.to(torch.int8).view(torch.uint8) for values in (small, small_min))
    head = (
        half_bytes(d),
        half_bytes(dmin),
        scales[:4] | scales[4:] >> 4 << 6,
        minima[:4] | minima[4:] >> 4 << 6,
        scales[4:] & 15 | minima[4:] << 4,
    )
    return torch.cat(head), numbers


def _square_sum(x: Tensor, scratch: Scratch) -> Tensor:
    """The sum of squares of each block [n], in order."""
    whole = scratch.floats("whole", (x.shape[1], len(x))).copy_(x.t())
    return sum_rows(whole.square_())


def _rounded(values: Tensor, nmax: int) -> tuple[Tensor, Tensor]:
    """Scales [parts, n] of a block as multiples of the largest over nmax: that step [n], and the multiples."""
    top = torch.amax(values, dim=0).clamp_(min=0.0).add_(0.0)  # the sum makes +0 of -0, as ggml's comparisons do
    inverse = torch.where(top > 0, quotient(nmax, top), 0.0)
    return quotient(top, nmax), nearest_int(values * inverse).bitwise_and_(255).clamp_(max=nmax)


def _again(
    parts: Tensor, d: Tensor, small: Tensor, dmin: Tensor, small_min: Tensor, nmax: int, fit: Range, scratch: Scratch
) -> Tensor:
    """The weights' integers [256, n] with the scales and minima that the file holds."""
    scale = (d.to(torch.float16).float() * small).view(-1)
    minimum = (dmin.to(torch.float16).float() * small_min).view(-1)
    again = torch.add(parts, minimum, out=scratch.floats("again", tuple(parts.shape)))
    numbers = nearest_int(again.div_(scale)).clamp_(0, nmax)
    nothing = scale == 0
    if nothing.any():  # ggml keeps what the search found where the scale rounds to nothing
        lost = nothing.nonzero()[:, 0]
        above = parts.index_select(1, lost) - fit.lowest[lost]
        numbers[:, lost] = nearest_int(above * fit.inverse[lost]).clamp_(0, nmax)
    return elements(numbers, len(d), scratch)


def _again_symmetric(parts: Tensor, d: Tensor, small: Tensor, nmax: int, found: Found, scratch: Scratch) -> Tensor:
    """The same for formats without minima. `found` gives what the search found in some columns."""
    scale = (d.to(torch.float16).float() * small).view(-1)
    numbers = scratch.floats("again", tuple(parts.shape))
    # as nearest_int, since quotients are far below what that keeps: a weight and its integer have the same sign (or
    # opposite ones, all of them), so a fit's scale is at least half of its grid's
    if not compiled.search("divide", parts, scale, nmax, numbers):
        torch.div(parts, scale, out=numbers).round_().clamp_(-nmax, nmax - 1).add_(nmax)
    nothing = scale == 0
    if nothing.any():
        lost = nothing.nonzero()[:, 0]
        numbers[:, lost] = found(lost)
    return elements(numbers, len(d), scratch)


def _by(parts: Tensor, inverse: Tensor, nmax: int) -> Found:
    """What fit_symmetric found, column by column."""
    return lambda columns: symmetric_integers(parts.index_select(1, columns), inverse[columns], nmax)
