"""The searches for a block's scale, after ggml's reference quantizers (ggml-quants.c), for many blocks at once.

Arrays are float32 [n, B]: n weights of a block, one block a column. Every candidate of a search is one pass over all
blocks. The arithmetic follows ggml's in order and in precision (core.precision.exact), and products are never fused
into sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core.precision import compiled
from core.precision.exact import TINY, nearest_int, quotient, sum_rows

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
    value = torch.where(balance > 0, highest, lowest)
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


def fit_symmetric(x: Tensor, weights: Tensor, nmax: int) -> tuple[Tensor, Tensor]:
    """The scale of x ~ scale * l, l in [-nmax, nmax - 1], and the inverse that gives l (make_qx_quants, rmse_type 1).

    The candidates are -(nmax + i / 10) over the extreme value, i from -9 to 9, that of 0 first.
    """
    best, scale, inverse = state = torch.empty((3, x.shape[1]), dtype=torch.float32, device=x.device)
    if compiled.search("fit_symmetric", x, weights, nmax, scale, inverse):
        return scale, inverse
    magnitude, extreme = first_extreme(x)
    zero = magnitude < ZERO
    extreme.masked_fill_(zero, 1.0)
    steps = torch.tensor(_STEPS, dtype=torch.float32, device=x.device)
    weighted = weights * x
    for step, offset in zip(_STEPS, -(steps * 0.1 + nmax), strict=True):
        candidate = torch.div(offset, extreme)
        numbers = torch.mul(x, candidate).round_().clamp_(-nmax, nmax - 1)
        sum_lx, sum_l2 = sum_rows(weighted * numbers), sum_rows(weights * numbers * numbers)
        fit = sum_lx / sum_l2.clamp(min=TINY)  # 0 where sum_l2 is 0, as sum_lx is 0 there, too: it is not better
        new = torch.stack((fit * sum_lx, fit, candidate))
        state.copy_(torch.where(sum_lx * sum_lx > best * sum_l2, new, state) if step else new)
    return scale.masked_fill_(zero, 0.0), inverse.masked_fill_(zero, 0.0)


def symmetric_integers(x: Tensor, inverse: Tensor, nmax: int) -> Tensor:
    """l + nmax of fit_symmetric as float32 [n, B]; 0 in columns of zeros, as ggml leaves it."""
    numbers = torch.mul(x, inverse).round_().clamp_(-nmax, nmax - 1).add_(nmax)
    return masked(numbers, inverse == 0)


def fit_range(x: Tensor, weights: Tensor, nmax: int, start: float, step: float, steps: int, absolute: bool) -> Range:
    """The fit of x ~ scale * l - minimum, l in [0, nmax] (make_qkx2_quants and make_qkx3_quants).

    Candidates round x on the grids (start + step * i + nmax) / (highest - lowest), i from 0 to `steps`, and fit scale
    and minimum to the result by weighted least squares. That of least weighted error wins, the plain grid among them,
    and its minimum is the lowest of the grids that follow. The error is the square of the difference, or where
    `absolute` its magnitude.
    """
    state = torch.empty((4, x.shape[1]), dtype=torch.float32, device=x.device)
    if compiled.search("fit_range", x, weights, nmax, start, step, steps, absolute, state):
        return Range(*state)

    def misfit(numbers: Tensor, scale: Tensor, lowest: Tensor) -> Tensor:
        difference = numbers * scale + lowest - x
        return sum_rows((difference.abs_() if absolute else difference.square_()).mul_(weights))

    scale, minimum, inverse, base = state
    highest, lowest = torch.amax(x, dim=0), first_lowest(x)
    lowest.masked_fill_(lowest > 0, 0.0)
    sum_w, sum_x = sum_rows(weights), sum_rows(weights * x)
    inverse.copy_(quotient(nmax, (highest - lowest).add_(0.0)))  # +0 of -0
    torch.reciprocal(inverse, out=scale)
    base.copy_(lowest)
    best = misfit(_on_grid(x, lowest, inverse, nmax), scale, lowest)
    offsets = torch.arange(steps + 1, dtype=torch.float32, device=x.device) * step + start + nmax
    for offset in offsets:
        candidate = torch.div(offset, highest - lowest)
        numbers = _on_grid(x, lowest, candidate, nmax)
        product = weights * numbers
        sum_l, sum_xl, sum_l2 = sum_rows(product), sum_rows(product * x), sum_rows(product * numbers)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_lowest = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        positive = new_lowest > 0
        new_scale = torch.where(positive, sum_xl / sum_l2, new_scale)
        new_lowest.masked_fill_(positive, 0.0)
        error = misfit(numbers, new_scale, new_lowest)
        better = (error < best) & (determinant > 0)
        best = torch.where(better, error, best)
        new = torch.stack((new_scale, minimum, candidate, lowest))
        state.copy_(torch.where(better, new, state))
        lowest = torch.where(better, new_lowest, lowest)
    minimum.copy_(-lowest)
    inverse.masked_fill_(inverse.isinf(), 0.0)  # see _on_grid
    return Range(*state)


def _on_grid(x: Tensor, lowest: Tensor, inverse: Tensor, nmax: int) -> Tensor:
    """(x - lowest) * inverse as integers in float32; ggml's rounding makes 0 of infinity and of what is no number."""
    return nearest_int((x - lowest).mul_(inverse)).clamp_(0, nmax).to(torch.float32)
