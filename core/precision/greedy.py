"""Searches that change single integers while that helps the fit, after ggml's make_q3_quants and make_qp_quants.

As in core.precision.search arrays are float32 [n, B], one block a column, and the arithmetic is ggml's in order and in
precision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core.precision.exact import TINY, Rows, above_zero, nearest_int, quotient, sum_rows
from core.precision.scratch import Scratch
from core.precision.search import ZERO, first_extreme, masked

# Columns that fit_greedily takes at once: the arrays of more would not stay in a CPU's cache.
_SLICE = 1 << 14
# Magnitudes that ggml's rounding keeps surely; beyond 2**22 its integers wrap.
_REACH = 2.0**21
# From so many columns on going through their rows is quicker than trying all integers for each change.
_WIDE = 1 << 12
_ROUNDS = 5  # through the weights of a block, as in ggml


class _Limits(NamedTuple):
    """What a changed integer may be."""

    low: int
    high: int
    both_positive: bool
    """Whether both sums without the weight's own part must be above zero, not only sum_lx."""


class _Fit(NamedTuple):
    """Columns whose fit may change, [n, B] each."""

    x: Tensor
    weights: Tensor
    weighted: Tensor
    """weights * x"""
    numbers: Tensor


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
    weighted = weights * x
    sums = torch.stack((sum_rows(weighted * numbers, scratch), sum_rows(weights * numbers * numbers, scratch)))
    active = torch.arange(x.shape[1], device=x.device)
    fit = _Fit(x, weights, weighted, numbers.clone())
    _improve(fit, active, numbers, sums, _Limits(0, nmax, True), scratch)
    return _scale(sums).masked_fill_(zero, 0.0), masked(numbers, zero)


def fit_greedily(x: Tensor, nmax: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """The scale of x ~ scale * l, l in [-nmax, nmax - 1], and l + nmax as float32 (make_q3_quants with do_rmse)."""
    columns = x.shape[1]
    magnitude, extreme = first_extreme(x)
    zero = magnitude < ZERO
    inverse = quotient(-nmax, extreme.masked_fill_(zero, 1.0))
    numbers = scratch.floats("numbers", tuple(x.shape))
    sums = torch.empty((2, columns), dtype=torch.float32, device=x.device)
    limits = _Limits(-nmax, nmax - 1, False)
    changing = []
    for start in range(0, columns, _SLICE):
        part = slice(start, start + _SLICE)
        arrays = x[:, part], numbers[:, part], inverse[part], magnitude[part], sums[:, part]
        changing.append(_perhaps_changing(*arrays, limits, scratch).add_(start))
    active = torch.cat(changing)
    if len(active):
        some, integers = _columns(x, active, "some x", scratch), _columns(numbers, active, "some l", scratch)
        squares = torch.mul(some, some, out=scratch.floats("some squares", tuple(some.shape)))
        weighted = torch.mul(squares, some, out=scratch.floats("some weighted", tuple(some.shape)))
        _improve(_Fit(some, squares, weighted, integers), active, numbers, sums, limits, scratch)
    return _scale(sums).masked_fill_(zero, 0.0), masked(numbers.add_(nmax), zero)


def _scale(sums: Tensor) -> Tensor:
    """sum_lx / sum_l2; 0 where sum_l2 is 0, as sum_lx is 0 there, too."""
    return sums[0] / sums[1].clamp(min=TINY)


def _columns(array: Tensor, kept: Tensor, name: str, scratch: Scratch) -> Tensor:
    return torch.index_select(array, 1, kept, out=scratch.floats(name, (len(array), len(kept))))


def _perhaps_changing(
    x: Tensor, numbers: Tensor, inverse: Tensor, magnitude: Tensor, sums: Tensor, limits: _Limits, scratch: Scratch
) -> Tensor:
    """fit_greedily's first integers and their sums; and the columns that hold all those in which one may change."""
    n, width = x.shape
    torch.mul(x, inverse, out=numbers).round_().clamp_(limits.low, limits.high)
    x, numbers = x.unsqueeze(0), numbers.unsqueeze(0)
    squares = torch.mul(x, x, out=scratch.floats("squares", (1, n, width)))
    lx, l2 = (Rows(scratch, name, n, width) for name in ("numbers of x", "numbers of l"))
    torch.mul(squares, x, out=lx.values).mul_(numbers)
    torch.mul(squares, numbers, out=l2.values).mul_(numbers)
    sum_lx, sum_l2 = lx.sum(sums[0]), l2.sum(sums[1])
    least = sum_lx - torch.amax(lx.values, dim=(0, 1))
    # each weight's best number with all others as they are: x * l2 / lx, sums without its own part
    best = torch.sub(sum_l2, l2.values, out=l2.values).mul_(x).div_(torch.sub(sum_lx, lx.values, out=lx.values))
    best.clamp_(limits.low - 0.4, limits.high + 0.4).sub_(numbers).abs_()
    farthest = torch.amax(best, dim=(0, 1)).sub_(0.499).nan_to_num_(nan=1.0)
    # clamping hides integers that wrap: those columns may change, too
    torch.maximum(farthest, torch.mul(magnitude, sum_l2).sub_(least.mul_(_REACH)), out=farthest)
    # All products x * l of a column have the same sign; where that is minus, lx is never above zero (see _try).
    return torch.minimum(farthest, sum_lx, out=farthest).clamp_(min=0.0).nonzero()[:, 0]


def _improve(fit: _Fit, active: Tensor, numbers: Tensor, sums: Tensor, limits: _Limits, scratch: Scratch) -> None:
    """Change single integers in `numbers` [n, all columns], and with them `sums` (sum_lx, sum_l2), while that helps.

    ggml goes through the weights of a block in turn, up to five rounds, and changes an integer where that is better
    with all others as they are then. `active` are the columns of `fit`, which is changed, too.
    """
    if not len(active):
        return
    now = sums.index_select(1, active)
    overflows = float(now[0].abs().max()) ** 2 * float(now[1].max()) > 1e34  # then the products of _try may do so, too
    rounds = _ROUNDS
    if len(active) >= _WIDE:
        changed = _first_round(fit, now, limits, overflows, scratch)
        numbers.index_copy_(1, active, fit.numbers)
        sums.index_copy_(1, active, now)
        kept = torch.minimum(_unsettled(fit, now, limits, scratch), changed).nonzero()[:, 0]
        arrays = zip(fit, fit._fields, strict=True)
        fit = _Fit(*(_columns(array, kept, f"{name} left", scratch) for array, name in arrays))
        now, active, rounds = now.index_select(1, kept), active.index_select(0, kept), _ROUNDS - 1
    _next_changes(fit, now, active, numbers, sums, limits, rounds, overflows, scratch)


def _unsettled(fit: _Fit, sums: Tensor, limits: _Limits, scratch: Scratch) -> Tensor:
    """Above zero in all columns in which an integer may change (and in few others), [B]."""
    room = _Room(scratch, tuple(fit.x.shape))
    lx, l2 = room.new, room.gain
    torch.sub(sums[0], torch.mul(fit.weighted, fit.numbers, out=lx), out=lx)
    torch.sub(sums[1], torch.mul(fit.weights, fit.numbers, out=l2).mul_(fit.numbers), out=l2)
    best = l2.mul_(fit.x).div_(lx)
    beyond = torch.amax(torch.abs(best, out=lx), dim=0).sub_(_REACH)
    best.clamp_(limits.low - 0.4, limits.high + 0.4).sub_(fit.numbers).abs_()
    farthest = torch.maximum(beyond, torch.amax(best, dim=0).sub_(0.499))
    return farthest.nan_to_num_(nan=1.0).clamp_(min=0.0)


def _first_round(fit: _Fit, sums: Tensor, limits: _Limits, overflows: bool, scratch: Scratch) -> Tensor:
    """Once through the rows, all columns at once; changes numbers and sums; 1 where a column changed, [B]."""
    changed = torch.zeros_like(sums[0])
    room = _Room(scratch, (len(changed),))
    for row in zip(*fit, strict=True):
        _try(_Fit(*row), sums, limits, overflows, room)
        better = above_zero(room.gain)
        sums.lerp_(room.sums, better)
        row[3].lerp_(room.new, better)
        torch.maximum(changed, better, out=changed)
    return changed


def _next_changes(
    fit: _Fit,
    sums: Tensor,
    active: Tensor,
    all_numbers: Tensor,
    all_sums: Tensor,
    limits: _Limits,
    most_rounds: int,
    overflows: bool,
    scratch: Scratch,
) -> None:
    """The rounds that are left, for few columns.

    Nothing moves between two changes. So each pass here tries all integers of the columns at once, makes in every
    column the change that comes next in turn, and goes on with those columns only.
    """
    if not len(active):
        return
    n = len(fit.x)
    places = torch.arange(n, dtype=torch.float32, device=active.device).unsqueeze(1)
    turn, rounds = torch.zeros((2, len(active)), dtype=torch.float32, device=active.device)
    for step in range(n * most_rounds):
        room = _Room(scratch, tuple(fit.x.shape))
        _try(fit, sums, limits, overflows, room)
        kept = torch.amax(room.gain, dim=0).clamp_(min=0.0).nonzero()[:, 0]
        if not len(kept):
            return
        # the first better place from the turn on, or else of the next round
        turn = turn.index_select(0, kept)
        better = above_zero(_columns(room.gain, kept, "better", scratch))
        later = places - turn
        later.add_(above_zero(-later), alpha=n).sub_(better, alpha=2 * n)
        place = torch.amin(later, dim=0).add_(2 * n).add_(turn)
        over = (place >= n).to(torch.float32)
        rounds = rounds.index_select(0, kept).add_(over)
        place.sub_(over.mul_(n))
        if float(rounds.max()) >= most_rounds:
            left = (rounds < most_rounds).nonzero()[:, 0]
            kept, place, rounds = kept[left], place[left], rounds[left]
        turn, active = place + 1, active.index_select(0, kept)
        row = place.to(torch.int64)
        at = row * room.new.shape[1] + kept
        sums = room.sums.view(2, -1).index_select(1, at)
        all_sums.index_copy_(1, active, sums)
        new = room.new.view(-1).index_select(0, at)
        all_numbers.view(-1).index_copy_(0, row * all_numbers.shape[1] + active, new)
        arrays = (*((array, kept) for array in fit[:3]), (all_numbers, active))
        names = (f"{name} {step % 2}" for name in fit._fields)  # not those that are read from
        fit = _Fit(*(_columns(*array, name, scratch) for array, name in zip(arrays, names, strict=True)))


class _Room:
    """What _try gives, and works with: arrays of one shape."""

    def __init__(self, scratch: Scratch, shape: tuple[int, ...]) -> None:
        self.sums, (self.new, self.gain), self.work = scratch.floats("tried", (3, 2, *shape))
        """sums: sum_lx and sum_l2 with the new integer; gain: above zero where it is another, and better."""


def _try(fit: _Fit, sums: Tensor, limits: _Limits, overflows: bool, room: _Room) -> None:
    """For each weight the integer that fits best with all others as they are, [n, B] or [B] for one row."""
    (lx, l2), gain, new, (work, other) = room.sums, room.gain, room.new, room.work
    # the sums without a weight's own part
    torch.sub(sums[0], torch.mul(fit.weighted, fit.numbers, out=gain), out=gain)
    torch.sub(sums[1], torch.mul(fit.weights, fit.numbers, out=l2).mul_(fit.numbers), out=l2)
    found = nearest_int(torch.mul(fit.x, l2, out=work).div_(gain))
    new.copy_(found.clamp_(limits.low, limits.high))
    torch.add(gain, torch.mul(fit.weighted, new, out=work), out=lx)
    if limits.both_positive:
        torch.minimum(gain, l2, out=gain)
    l2.add_(torch.mul(fit.weights, new, out=work).mul_(new))
    ahead = torch.mul(lx, lx, out=work).mul_(sums[1])
    ahead.sub_(torch.mul(l2, sums[0] * sums[0], out=other))
    if overflows:  # infinity is not better than infinity
        ahead.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    torch.minimum(gain, ahead, out=gain)
    torch.minimum(gain, l2, out=gain)
    torch.minimum(gain, torch.sub(new, fit.numbers, out=work).abs_(), out=gain)
