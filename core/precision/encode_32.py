"""Encoders of Q8_0, Q5_1, Q5_0, Q4_1, Q4_0 and MXFP4, whose blocks are 32 weights and have one scale.

Each takes blocks [n, 32] of float32 and their weights of importance or None, and gives the stored blocks,
uint8 [n, block_bytes]: ggml's bytes (ggml-quants.c: quantize_row_*_ref without weights, quantize_row_*_impl with them;
Q8_0 and MXFP4 have no use for weights). Without weights the scale follows from the extreme values alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.precision.decode_32 import e8m0_half
from core.precision.exact import quotient
from core.precision.importance import Weights, importance_weights
from core.precision.layout import columns, elements, half_bytes, packed, stored
from core.precision.scratch import Scratch
from core.precision.search import first_extreme, first_lowest, fit_range, fit_symmetric, symmetric_integers


def q8_0(x: Tensor, weights: Weights | None, scratch: Scratch) -> Tensor:
    """The largest magnitude over 127; ties round away from zero."""
    parts = columns(x, 32, scratch)
    d = quotient(torch.maximum(torch.amax(parts, dim=0), -torch.amin(parts, dim=0)).add_(0.0), 127)  # +0 of -0
    parts.mul_(_inverse(d))
    magnitude = torch.abs(parts, out=scratch.floats("magnitude", tuple(parts.shape)))
    whole = torch.floor(magnitude, out=scratch.floats("whole", tuple(parts.shape)))
    whole.add_(magnitude.sub_(whole).mul_(2).floor_())
    return stored(half_bytes(d), _bytes(whole.copysign_(parts), scratch))


def q4_0(x: Tensor, weights: Weights | None, scratch: Scratch) -> Tensor:
    """The extreme value becomes -8."""
    d, numbers = _symmetric(columns(x, 32, scratch), weights, 8, scratch)
    return stored(half_bytes(d), packed(numbers, 4, 2, 16))


def q5_0(x: Tensor, weights: Weights | None, scratch: Scratch) -> Tensor:
    """The extreme value becomes -16."""
    d, numbers = _symmetric(columns(x, 32, scratch), weights, 16, scratch)
    return stored(half_bytes(d), packed(numbers >> 4, 1, 8, 1), packed(numbers & 15, 4, 2, 16))


def q4_1(x: Tensor, weights: Weights | None, scratch: Scratch) -> Tensor:
    """From the lowest to the highest value in 15 steps."""
    d, lowest, numbers = _range(columns(x, 32, scratch), weights, 15, scratch)
    return stored(half_bytes(d), half_bytes(lowest), packed(numbers, 4, 2, 16))


def q5_1(x: Tensor, weights: Weights | None, scratch: Scratch) -> Tensor:
    """From the lowest to the highest value in 31 steps."""
    d, lowest, numbers = _range(columns(x, 32, scratch), weights, 31, scratch)
    high, low = packed(numbers >> 4, 1, 8, 1), packed(numbers & 15, 4, 2, 16)
    return stored(half_bytes(d), half_bytes(lowest), high, low)


def mxfp4(x: Tensor, weights: Weights | None, scratch: Scratch) -> Tensor:
    """The power of two below the largest magnitude, over 4; values of E2M1, of two equally near the smaller one."""
    parts = columns(x, 32, scratch)
    magnitude, _ = first_extreme(parts)
    # as the logarithm rounded to float32, which for a number just below a power of two is that power's
    exact = magnitude if x.device.type == "mps" else magnitude.to(torch.float64)
    exponent = torch.log2(exact).to(torch.float32).floor_().add_(125).masked_fill_(magnitude == 0, 0.0)
    stored_exponent = exponent.to(torch.int32).bitwise_and_(255)  # wraps, as the cast in ggml
    doubled = parts.div_(e8m0_half(stored_exponent)).mul_(2)
    # Twice the thresholds are whole numbers, so a table over the next whole number decides exactly.
    places = doubled.abs().ceil_().clamp_(max=24).copysign_(doubled).add_(24)
    table = [sum(place > limit for limit in (1, 3, 5, 7, 10, 14, 20)) for place in range(25)]
    both = [index + 8 if index else 0 for index in table[:0:-1]] + table
    chosen = torch.tensor(both, dtype=torch.uint8, device=x.device)
    numbers = chosen.index_select(0, places.to(torch.int32).view(-1)).view(32, -1)
    return stored(stored_exponent.to(torch.uint8).unsqueeze(0), packed(numbers, 4, 2, 16))


def _inverse(d: Tensor) -> Tensor:
    """1 / d, and 0 for 0."""
    return d.reciprocal().masked_fill_(d == 0, 0.0)


def _bytes(values: Tensor, scratch: Scratch) -> Tensor:
    """Whole parts as uint8 [32, n]; 0 for what overflowed (scales that float32 cannot invert), as C's cast on x86."""
    values.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return elements(values, values.shape[1], scratch)


def _weights(parts: Tensor, weights: Weights, scratch: Scratch) -> Tensor:
    assert weights.mean_squares is not None
    return importance_weights(parts, weights.columns(32, scratch), weights.mean_squares, scratch)


def _symmetric(parts: Tensor, weights: Weights | None, nmax: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Scale [n] and integers [32, n] of blocks without a minimum."""
    if weights is None:
        _, extreme = first_extreme(parts)
        d = quotient(extreme.add_(0.0), -nmax)
        return d, _bytes(parts.mul_(_inverse(d)).add_(nmax + 0.5), scratch).clamp_(max=2 * nmax - 1)
    d, inverse = fit_symmetric(parts, _weights(parts, weights, scratch), nmax)
    return d, _bytes(symmetric_integers(parts, inverse, nmax), scratch)


def _range(parts: Tensor, weights: Weights | None, nmax: int, scratch: Scratch) -> tuple[Tensor, Tensor, Tensor]:
    """Scale [n], minimum [n] and integers [32, n] of blocks with a minimum."""
    if weights is None:
        lowest = first_lowest(parts)
        d = quotient((torch.amax(parts, dim=0) - lowest).add_(0.0), nmax)  # +0 of -0
        return d, lowest, _bytes(parts.sub_(lowest).mul_(_inverse(d)).add_(0.5), scratch).clamp_(max=nmax)
    fit = fit_range(parts, _weights(parts, weights, scratch), nmax, -0.9, 0.05, 36, False)
    numbers = parts.sub_(fit.lowest).mul_(fit.inverse).round_().clamp_(0, nmax)
    return fit.scale, -fit.minimum, _bytes(numbers, scratch)
