"""The searches for a block's scale, after ggml's reference quantizers (ggml-quants.c), for many blocks at once.

Arrays are float32 [n, B]: n weights of a block, one block a column. Every candidate of a search is one pass over all
blocks. The arithmetic follows ggml's in order and in precision (core.precision.exact), and products are never fused
into sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core.precision.exact import TINY, Rows, above_zero, grouped, quotient
from core.precision.scratch import Scratch

# Below it ggml takes a block for zeros (GROUP_MAX_EPS).
ZERO = 1e-15
# The candidates of fit_symmetric, in tenths; ggml tries that of 0 first.
_STEPS = (0, *range(-9, 0), *range(1, 10))


class Range(NamedTuple):
    """A fit by x ~ scale * l - minimum, where l = nearest((x - lowest) * inverse). Each [B]."""

    scale: Tensor
    minimum: Tensor
    inverse: Tensor
    lowest: Tensor


def masked(numbers: Tensor, columns: Tensor) -> Tensor:
    """Zero in those columns, in place; a full pass, so only where there are any."""
    return numbers.masked_fill_(columns, 0.0) if columns.any() else numbers


def first_extreme(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column the largest magnitude, and the value that has it first (a zero may lose its sign); both [B]."""
    highest, lowest = torch.amax(x, dim=0), torch.amin(x, dim=0)
    balance = highest + lowest
    magnitude = torch.maximum(highest, -lowest)
    value = torch.lerp(lowest, highest, above_zero(balance.clone()))
    if torch.amin(torch.abs(balance)) == 0:
        tied = (balance == 0).nonzero()[:, 0]
        columns = x.index_select(1, tied)
        first = columns.abs().max(dim=0, keepdim=True).indices
        value[tied] = columns.gather(0, first)[0]
    return magnitude, value


def first_lowest(x: Tensor) -> Tensor:
    """Of each column the lowest value [B]; where that is zero, the zero that comes first, with its sign."""
    lowest = torch.amin(x, dim=0)
    at_zero = lowest == 0
    if at_zero.any():
        zeros = at_zero.nonzero()[:, 0]
        columns = x.index_select(1, zeros)
        first = (columns == 0).to(torch.int8).max(dim=0, keepdim=True).indices
        lowest[zeros] = columns.gather(0, first)[0]
    return lowest


def fit_symmetric(x: Tensor, weights: Tensor, nmax: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """The scale of x ~ scale * l, l in [-nmax, nmax - 1], and the inverse that gives l (make_qx_quants, rmse_type 1).

    The candidates are -(nmax + i / 10) over the extreme value, i from -9 to 9, that of 0 first.
    """
    magnitude, extreme = first_extreme(x)
    zero = magnitude < ZERO
    extreme.masked_fill_(zero, 1.0)
    steps = torch.tensor(_STEPS, dtype=torch.float32, device=x.device)
    grid = -(steps * 0.1 + nmax)
    n, width = x.shape
    x, weights = grouped(x), grouped(weights)
    weighted = torch.mul(weights, x, out=scratch.floats("weighted", tuple(x.shape)))
    first, second = (Rows(scratch, name, n, width) for name in ("numbers", "product"))
    numbers, product = first.values, second.values
    sum_lx, sum_l2, ahead, behind = torch.empty((4, width), dtype=torch.float32, device=x.device)
    state, new = torch.empty((2, 3, width), dtype=torch.float32, device=x.device)
    best, scale, inverse = state
    new_best, new_scale, candidate = new
    for step, offset in zip(_STEPS, grid, strict=True):
        torch.div(offset, extreme, out=candidate)
        torch.mul(x, candidate, out=numbers).round_()
        if step > -6:  # else the extreme itself is rounded to nmax - 1 or less
            numbers.clamp_(-nmax, nmax - 1)
        torch.mul(weights, numbers, out=product).mul_(numbers)
        second.sum(sum_l2)
        numbers.mul_(weighted)
        first.sum(sum_lx)
        torch.mul(best, sum_l2, out=behind)
        # Where sum_l2 is zero sum_lx is, too: the quotient becomes 0 and the candidate is not better.
        torch.div(sum_lx, sum_l2.clamp_(min=TINY), out=new_scale)
        torch.mul(new_scale, sum_lx, out=new_best)
        if step:
            state.lerp_(new, above_zero(torch.mul(sum_lx, sum_lx, out=ahead).sub_(behind)))
        else:
            state.copy_(new)
    return scale.masked_fill(zero, 0.0), inverse.masked_fill(zero, 0.0)


def symmetric_integers(x: Tensor, inverse: Tensor, nmax: int) -> Tensor:
    """l + nmax of fit_symmetric as float32 [n, B]; 0 in columns of zeros, as ggml leaves it."""
    numbers = torch.mul(x, inverse).round_().clamp_(-nmax, nmax - 1).add_(nmax)
    return masked(numbers, inverse == 0)


def fit_range(
    x: Tensor,
    weights: Tensor,
    nmax: int,
    start: float,
    step: float,
    steps: int,
    absolute: bool,
    scratch: Scratch,
) -> Range:
    """The fit of x ~ scale * l - minimum, l in [0, nmax] (make_qkx2_quants and make_qkx3_quants).

    Candidates round x on the grids (start + step * i + nmax) / (highest - lowest), i from 0 to `steps`, and fit scale
    and minimum to the result by weighted least squares. That of least weighted error wins, the plain grid among them,
    and its minimum is the lowest of the grids that follow. The error is the square of the difference, or where
    `absolute` its magnitude.
    """
    n, width = x.shape
    highest = torch.amax(x, dim=0)
    state, new = torch.empty((2, 5, width), dtype=torch.float32, device=x.device)
    best, scale, lowest, inverse, base = state
    error, new_scale, new_lowest, candidate, new_base = new
    first = first_lowest(x)
    first.masked_fill_(first > 0, 0.0)
    lowest.copy_(first)
    flat = highest == lowest
    highest.masked_fill_(flat, 1.0)  # any number above lowest, which is 0 or less

    x, weights = grouped(x), grouped(weights)
    numbers, product, other = (Rows(scratch, name, n, width) for name in ("numbers", "product", "other"))
    sums = torch.empty((4, width), dtype=torch.float32, device=x.device)
    sum_x, sum_l, sum_xl, sum_l2 = sums
    left, right = torch.empty((2, 3, width), dtype=torch.float32, device=x.device)
    determinant, sum_w, through_zero, better, valid, positive = torch.empty(
        (6, width), dtype=torch.float32, device=x.device
    )
    # numerators of the scale and of the minimum, with the determinant between them
    by_weight, by_first, outer, middle = sums[2:], sums[:3], left[::2], left[1]
    fitted = new[1:3]
    product.values.copy_(weights)
    product.sum(sum_w)
    torch.mul(weights, x, out=product.values)
    product.sum(sum_x)

    def integers(inverse: Tensor) -> None:
        torch.sub(x, lowest, out=numbers.values).mul_(inverse).round_().clamp_(0, nmax)

    def misfit(scale: Tensor, minimum: Tensor, out: Tensor) -> None:
        difference = numbers.values.mul_(scale).add_(minimum).sub_(x)
        (difference.abs_() if absolute else difference.square_()).mul_(weights)
        numbers.sum(out)

    inverse.copy_(quotient(nmax, highest - lowest))
    torch.reciprocal(inverse, out=scale)
    # ggml's rounding makes 0 of infinity: where the range of a block is less than float32 can invert
    inverse.nan_to_num_(posinf=0.0)
    integers(inverse)
    misfit(scale, lowest, best)
    base.copy_(lowest)
    first_error = best.clone()

    offsets = torch.arange(steps + 1, dtype=torch.float32, device=x.device) * step + start + nmax
    for offset in offsets:
        torch.sub(highest, lowest, out=candidate)
        torch.div(offset, candidate, out=candidate).nan_to_num_(posinf=0.0)
        new_base.copy_(lowest)
        integers(candidate)
        torch.mul(weights, numbers.values, out=product.values)
        product.sum(sum_l)
        torch.mul(product.values, x, out=other.values)
        other.sum(sum_xl)
        product.values.mul_(numbers.values)
        product.sum(sum_l2)
        torch.mul(by_weight, sum_w, out=outer)
        torch.mul(sum_x, sum_l2, out=middle)
        torch.mul(by_first, sum_l, out=right)
        torch.sub(outer[0], right[0], out=new_scale)
        torch.sub(middle, right[2], out=new_lowest)
        torch.sub(outer[1], right[1], out=determinant)
        above_zero(valid.copy_(determinant))
        fitted.div_(determinant.clamp_(min=TINY)).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        torch.div(sum_xl, sum_l2.clamp_(min=TINY), out=through_zero)
        new_scale.lerp_(through_zero, above_zero(positive.copy_(new_lowest)))
        new_lowest.clamp_(max=0.0)
        misfit(new_scale, new_lowest, error)
        state.lerp_(new, above_zero(torch.sub(best, error, out=better)).mul_(valid))
    lowest = torch.where(best == first_error, first, lowest)  # lerp has made +0 of a -0 that stayed the minimum
    return Range(scale.masked_fill(flat, 0.0), -lowest, inverse, base)
