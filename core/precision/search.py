"""The searches for a block's scale, after ggml's reference quantizers (ggml-quants.c), for many blocks at once.

Arrays are float32 [n, B]: n weights of a block, one block a column. Every candidate of a search is one pass over all
blocks. The arithmetic follows ggml's in order and in precision (core.precision.exact), and products are never fused
into sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core.precision.exact import TINY, Rows, above_zero, grouped, nearest_int, quotient, square_root, sum_rows
from core.precision.scratch import Scratch

# Below it ggml takes a block for zeros (GROUP_MAX_EPS).
ZERO = 1e-15


class Range(NamedTuple):
    """A fit by x ~ scale * l - minimum, where l = nearest((x - lowest) * inverse). Each [B]."""

    scale: Tensor
    minimum: Tensor
    inverse: Tensor
    lowest: Tensor


def _masked(numbers: Tensor, columns: Tensor) -> Tensor:
    """Zero in those columns, in place; a full pass, so only where there are any."""
    return numbers.masked_fill_(columns, 0.0) if columns.any() else numbers


def first_extreme(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column the largest magnitude, and the value that has it first; both [B]."""
    highest, lowest = torch.amax(x, dim=0), torch.amin(x, dim=0)
    magnitude = torch.maximum(highest, -lowest)
    value = torch.where(highest > -lowest, highest, lowest)
    ties = highest == -lowest
    if ties.any():
        tied = ties.nonzero()[:, 0]
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


def importance_weights(parts: Tensor, importance: Tensor, spread: Tensor, scratch: Scratch) -> Tensor:
    """ggml's weights of the error: importance * sqrt(spread + x * x); `spread` [n] belongs to whole blocks.

    Parts are [size, parts * n], the first part of every block first. Overwrites `importance` with them.
    """
    squares = torch.mul(parts, parts, out=scratch.floats("squares", tuple(parts.shape)))
    squares.view(len(parts), -1, len(spread)).add_(spread)
    return importance.mul_(square_root(squares, scratch))


def fit_symmetric(x: Tensor, weights: Tensor, nmax: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """The scale of x ~ scale * l, l in [-nmax, nmax - 1], and the inverse that gives l (make_qx_quants, rmse_type 1).

    The candidates are -(nmax + i / 10) over the extreme value, i from -9 to 9, that of 0 first.
    """
    magnitude, extreme = first_extreme(x)
    zero = magnitude < ZERO
    extreme.masked_fill_(zero, 1.0)
    steps = torch.tensor([0, *range(-9, 0), *range(1, 10)], dtype=torch.float32, device=x.device)
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
    for index, offset in enumerate(grid):
        torch.div(offset, extreme, out=candidate)
        torch.mul(x, candidate, out=numbers).round_().clamp_(-nmax, nmax - 1)
        torch.mul(weights, numbers, out=product).mul_(numbers)
        second.sum(sum_l2)
        numbers.mul_(weighted)
        first.sum(sum_lx)
        torch.mul(best, sum_l2, out=behind)
        # Where sum_l2 is zero sum_lx is, too: the quotient becomes 0 and the candidate is not better.
        torch.div(sum_lx, sum_l2.clamp_(min=TINY), out=new_scale)
        torch.mul(new_scale, sum_lx, out=new_best)
        if index:
            better = above_zero(torch.mul(sum_lx, sum_lx, out=ahead).sub_(behind))
            state.lerp_(new, better)
        else:
            state.copy_(new)
    return scale.masked_fill(zero, 0.0), inverse.masked_fill(zero, 0.0)


def symmetric_integers(x: Tensor, inverse: Tensor, nmax: int) -> Tensor:
    """l + nmax of fit_symmetric as float32 [n, B]; 0 in columns of zeros, as ggml leaves it."""
    numbers = torch.mul(x, inverse).round_().clamp_(-nmax, nmax - 1).add_(nmax)
    return _masked(numbers, inverse == 0)


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


def fit_positive(x: Tensor, weights: Tensor, nmax: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """The scale of x ~ scale * l, l in [0, nmax], and l as float32 (make_qp_quants): scales of scales, minima."""
    highest = torch.amax(x, dim=0)
    zero = highest < ZERO
    highest.masked_fill_(zero, 1.0)
    steps = torch.tensor([0, *range(-4, 0), *range(1, 5)], dtype=torch.float32, device=x.device)
    inverses = (steps * 0.1 + nmax).unsqueeze(1) / highest
    numbers = nearest_int(inverses.unsqueeze(1) * x).to(torch.float32)
    numbers[1:].clamp_(max=nmax)
    difference = x - inverses.reciprocal().unsqueeze(1) * numbers
    errors = torch.stack([sum_rows(rows, scratch) for rows in weights * difference * difference])
    best = torch.min(errors, dim=0, keepdim=True).indices
    numbers = numbers.gather(0, best.unsqueeze(0).expand(1, *x.shape))[0].clamp_(max=nmax)
    scale = refine(x, weights, numbers, 0, nmax, True, scratch)
    return scale.masked_fill_(zero, 0.0), _masked(numbers, zero)


def fit_greedily(x: Tensor, nmax: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """The scale of x ~ scale * l, l in [-nmax, nmax - 1], and l + nmax as float32 (make_q3_quants with do_rmse)."""
    magnitude, extreme = first_extreme(x)
    zero = magnitude < ZERO
    extreme.masked_fill_(zero, 1.0)
    numbers = scratch.floats("numbers", tuple(x.shape))
    torch.mul(x, quotient(-nmax, extreme), out=numbers).round_().clamp_(-nmax, nmax - 1)
    squares = torch.mul(x, x, out=scratch.floats("squares", tuple(x.shape)))
    scale = refine(x, squares, numbers, -nmax, nmax - 1, False, scratch)
    return scale.masked_fill_(zero, 0.0), _masked(numbers.add_(nmax), zero)


def refine(
    x: Tensor, weights: Tensor, numbers: Tensor, low: int, high: int, both_positive: bool, scratch: Scratch
) -> Tensor:
    """Change single integers, in place, while that helps the weighted fit; the scale [B] of the fit.

    ggml goes through the weights of a block in turn, up to five rounds, and changes an integer where that is better
    with all others as they are then. Nothing moves between two changes. So each pass here tries all integers of all
    columns at once, makes in every column the change that comes next in turn, and goes on with those columns only.
    """
    n, columns = x.shape
    weighted = torch.mul(weights, x, out=scratch.floats("weighted", (n, columns)))
    product = scratch.floats("first", (n, columns))
    sum_lx = total_lx = sum_rows(torch.mul(weighted, numbers, out=product), scratch)
    sum_l2 = total_l2 = sum_rows(torch.mul(weights, numbers, out=product).mul_(numbers), scratch)
    part = numbers
    places = torch.arange(n, dtype=torch.float32, device=x.device).unsqueeze(1)
    active = torch.arange(columns, device=x.device)
    turn, rounds = torch.zeros_like(sum_lx), torch.zeros_like(sum_lx)
    overflows = float(sum_lx.abs().max()) ** 2 * float(sum_l2.max()) > 1e34  # then the products below may do so, too
    while True:
        shape = (n, x.shape[1])
        first, second, third, fourth, gain = (
            scratch.floats(name, shape) for name in ("first", "second", "third", "fourth", "gain")
        )
        # the sums without a weight's own part
        lx = torch.sub(sum_lx, torch.mul(weighted, part, out=first), out=first)
        l2 = torch.sub(sum_l2, torch.mul(weights, part, out=second).mul_(part), out=second)
        found = nearest_int(torch.mul(x, l2, out=third).div_(lx)).clamp_(low, high)
        new = scratch.floats("new", shape).copy_(found)
        # positive where every condition holds
        torch.minimum(lx, l2 if both_positive else lx, out=gain)
        # the sums with the new integer
        lx.add_(torch.mul(weighted, new, out=third))
        l2.add_(torch.mul(weights, new, out=third).mul_(new))
        ahead = torch.mul(lx, lx, out=third).mul_(sum_l2)
        ahead.sub_(torch.mul(l2, sum_lx * sum_lx, out=fourth))
        if overflows:  # infinity is not better than infinity
            ahead.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        torch.minimum(gain, ahead, out=gain)
        torch.minimum(gain, l2, out=gain)
        torch.minimum(gain, torch.sub(new, part, out=third).abs_(), out=gain)
        kept = (torch.amax(gain, dim=0) > 0).nonzero()[:, 0]
        if not len(kept):
            break
        # the first better place from the turn on, or else of the next round
        ahead_by = (places - turn[kept]).remainder_(n)
        better = above_zero(gain.index_select(1, kept))
        place = torch.amin(ahead_by.sub_(better.mul_(2 * n)), dim=0).add_(2 * n).add_(turn[kept])
        over = (place >= n).to(torch.float32)
        rounds = rounds[kept].add_(over)
        place.sub_(over.mul_(n))
        if float(rounds.max()) > 4:
            left = (rounds < 5).nonzero()[:, 0]
            kept, place, rounds = kept[left], place[left], rounds[left]
        turn, active = place + 1, active[kept]
        row = place.to(torch.int64)
        at = row * shape[1] + kept
        sum_lx, sum_l2, value = (array.view(-1).index_select(0, at) for array in (lx, l2, new))
        numbers.view(-1).index_copy_(0, row * columns + active, value)
        total_lx.index_copy_(0, active, sum_lx)
        total_l2.index_copy_(0, active, sum_l2)
        x, weights, weighted = (array.index_select(1, kept) for array in (x, weights, weighted))
        part = numbers.index_select(1, active)
    return torch.where(total_l2 > 0, total_lx / total_l2, 0.0)
