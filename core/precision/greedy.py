"""Searches that change single integers while that helps the fit, after ggml's make_q3_quants and make_qp_quants.

As in core.precision.search arrays are float32 [n, B], one block a column, and the arithmetic is ggml's in order and in
precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.precision import compiled
from core.precision.exact import TINY, nearest_int, quotient, sum_rows
from core.precision.scratch import Scratch
from core.precision.search import ZERO, first_extreme, masked

_ROUNDS = 5  # through the weights of a block, as in ggml


def fit_positive(x: Tensor, weights: Tensor, nmax: int) -> tuple[Tensor, Tensor]:
    """The scale of x ~ scale * l, l in [0, nmax], and l as float32 (make_qp_quants): scales of scales, minima."""
    highest = torch.amax(x, dim=0)
    zero = highest < ZERO
    highest.masked_fill_(zero, 1.0)
    steps = torch.tensor([0, *range(-4, 0), *range(1, 5)], dtype=torch.float32, device=x.device)
    inverses = (steps * 0.1 + nmax).unsqueeze(1) / highest
    numbers = nearest_int(inverses.unsqueeze(1) * x).to(torch.float32)
    numbers[1:].clamp_(max=nmax)
    difference = x - inverses.reciprocal().unsqueeze(1) * numbers
    errors = torch.stack([sum_rows(rows) for rows in weights * difference * difference])
    best = torch.min(errors, dim=0, keepdim=True).indices
    numbers = numbers.gather(0, best.unsqueeze(0).expand(1, *x.shape))[0].clamp_(max=nmax)
    sums = torch.stack((sum_rows(weights * x * numbers), sum_rows(weights * numbers * numbers)))
    _improve(x, weights, 0, nmax, True, numbers, sums)
    return _scale(sums).masked_fill_(zero, 0.0), masked(numbers, zero)


def fit_greedily(x: Tensor, nmax: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """The scale of x ~ scale * l, l in [-nmax, nmax - 1], and l + nmax as float32 (make_q3_quants with do_rmse)."""
    shape = tuple(x.shape)
    numbers, squares = scratch.floats("numbers", shape), scratch.floats("squares", shape)
    magnitude, *_ = state = torch.empty((3, shape[1]), dtype=torch.float32, device=x.device)
    sums = state[1:]
    if not compiled.search("begin_greedily", x, nmax, magnitude, squares, numbers, sums):
        largest, extreme = first_extreme(x)
        magnitude.copy_(largest)
        inverse = quotient(-nmax, extreme.masked_fill_(magnitude < ZERO, 1.0))
        torch.mul(x, inverse, out=numbers).round_().clamp_(-nmax, nmax - 1)
        torch.mul(x, x, out=squares)
        sums[0] = sum_rows(squares * x * numbers)
        sums[1] = sum_rows(squares * numbers * numbers)
    zero = magnitude < ZERO
    _improve(x, squares, -nmax, nmax - 1, False, numbers, sums)
    return _scale(sums).masked_fill_(zero, 0.0), masked(numbers.add_(nmax), zero)


def _scale(sums: Tensor) -> Tensor:
    """sum_lx / sum_l2; 0 where sum_l2 is 0, as sum_lx is 0 there, too."""
    return sums[0] / sums[1].clamp(min=TINY)


def _improve(
    x: Tensor, weights: Tensor, low: int, high: int, both_positive: bool, numbers: Tensor, sums: Tensor
) -> None:
    """Change integers within low and high, and their sums [2, B] (sum_lx, sum_l2), in place while that helps.

    ggml goes through the weights of a block in turn, up to five rounds, and changes an integer where that is better
    with all others as they are then. Without the weight's own part sum_lx must be above zero, or `both_positive` sums.
    """
    if compiled.search("improve", x, weights, low, high, both_positive, numbers, sums):
        return
    for _ in range(_ROUNDS):
        changed = torch.zeros_like(sums[0], dtype=torch.bool)
        for value, weight, number in zip(x, weights, numbers, strict=True):
            lx, l2 = sums[0] - weight * value * number, sums[1] - weight * number * number
            new = nearest_int(value * l2 / lx).clamp_(low, high).to(torch.float32)
            new_sums = torch.stack((lx + weight * value * new, l2 + weight * new * new))
            better = (lx > 0) & (new_sums[1] > 0) & (new != number)
            better &= new_sums[0] * new_sums[0] * sums[1] > sums[0] * sums[0] * new_sums[1]
            if both_positive:
                better &= l2 > 0
            number.copy_(torch.where(better, new, number))
            sums.copy_(torch.where(better, new_sums, sums))
            changed |= better
        if not changed.any():
            return
