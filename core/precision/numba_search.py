"""The searches of search and greedy for a CPU, compiled by numba: the same bits.

Arrays are float32 [n, B], one block a column. A kernel does the columns from `start` to `stop`, _COLUMNS at a time,
whose rows stay in the processor's nearest cache. Its innermost loops go over columns, so they are vectorised while the
sums of each block keep ggml's order. Where ggml branches for a block, a column keeps its old values instead. Loops are
short and write to few arrays: LLVM leaves those scalar in which more of them might overlap.
"""

# mypy: disable-error-code="no-untyped-def"
# numba reads no annotations.

from __future__ import annotations

from itertools import pairwise

import numpy as np

from core.precision.decode_32 import IQ4_VALUES
from core.precision.numba_jit import bits, f32, i32, jit
from core.precision.search import ZERO

_COLUMNS = 128
_ZERO = f32(ZERO)
_INFINITY = f32(np.inf)
_ROUNDER = f32(12582912.0)  # see core.precision.exact
_ROUNDS = 5  # through the weights of a block, as in ggml


@jit
def _nearest(value, low, high):
    """ggml's nearest_int, clamped, as float32: beyond 2**22 it wraps, and NaN becomes 0."""
    number = f32(i32(i32(bits(value + _ROUNDER) & 0x7FFFFF) - 0x400000))
    number = max(number, low)
    return min(number, high)


@jit
def _extremes(x, columns, largest, extreme):
    """Of some columns the largest magnitude, and the value that has it first."""
    largest[:] = f32(0)
    extreme[:] = f32(0)
    for i in range(len(x)):
        values = x[i][columns]
        for b in range(len(values)):
            extreme[b] = values[b] if abs(values[b]) > largest[b] else extreme[b]
        for b in range(len(values)):  # two loops, or they would not be vectorised
            largest[b] = max(largest[b], abs(values[b]))


@jit
def fit_symmetric(start, stop, x, weights, nmax, scales, inverses):
    """Fill scales and inverses [B] as search.fit_symmetric does."""
    low, high = f32(-nmax), f32(nmax - 1)
    largest, extreme, candidate, sum_lx, sum_l2, best = np.empty((6, _COLUMNS), np.float32)
    for first in range(start, stop, _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, stop))
        scale, inverse = scales[columns], inverses[columns]
        _extremes(x, columns, largest[: len(scale)], extreme)
        for step in range(19):  # tenths: 0 first, then -9 to 9 without it
            tenths = f32(i32(0 if step == 0 else step - 10 if step < 10 else step - 9))
            offset = -(f32(nmax) + f32(0.1) * tenths)
            for b in range(len(scale)):
                candidate[b] = offset / extreme[b]
                sum_lx[b] = f32(0)
                sum_l2[b] = f32(0)
            for i in range(len(x)):
                values, row = x[i][columns], weights[i][columns]
                for b in range(len(scale)):
                    number = _nearest(values[b] * candidate[b], low, high)
                    sum_lx[b] += row[b] * values[b] * number
                    sum_l2[b] += row[b] * number * number
            for b in range(len(scale)):
                fit = sum_lx[b] / sum_l2[b] if sum_l2[b] > f32(0) else f32(0)
                better = (step == 0) | (sum_l2[b] > f32(0)) & (sum_lx[b] * sum_lx[b] > best[b] * sum_l2[b])
                scale[b] = fit if better else scale[b]
                best[b] = fit * sum_lx[b] if better else best[b]
                inverse[b] = candidate[b] if better else inverse[b]
        for b in range(len(scale)):
            scale[b] = f32(0) if largest[b] < _ZERO else scale[b]
            inverse[b] = f32(0) if largest[b] < _ZERO else inverse[b]


@jit
def fit_range(start, stop, x, weights, nmax, offset, step, steps, absolute, fits):
    """Fill fits [4, B], which are search.Range, as search.fit_range does."""
    top = f32(nmax)
    highest, sum_w, sum_x, sum_l, sum_xl, sum_l2, best = np.empty((7, _COLUMNS), np.float32)
    candidate, error, new_scale, new_lowest, lowest = np.empty((5, _COLUMNS), np.float32)
    numbers = np.empty((len(x), _COLUMNS), np.float32)
    for first in range(start, stop, _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, stop))
        scale, minimum, inverse, base = fits[0][columns], fits[1][columns], fits[2][columns], fits[3][columns]
        for b in range(len(scale)):
            highest[b] = lowest[b] = x[0, first + b]
            sum_w[b] = sum_x[b] = best[b] = f32(0)
        for i in range(len(x)):
            values, row = x[i][columns], weights[i][columns]
            for b in range(len(scale)):
                lowest[b] = min(lowest[b], values[b])
                highest[b] = max(highest[b], values[b])
                sum_w[b] += row[b]
                sum_x[b] += row[b] * values[b]
        for b in range(len(scale)):
            lowest[b] = min(lowest[b], f32(0))
            inverse[b] = top / (highest[b] - lowest[b])
            scale[b] = f32(1) / inverse[b]
            base[b] = lowest[b]
        for i in range(len(x)):
            values, row = x[i][columns], weights[i][columns]
            for b in range(len(scale)):
                number = _nearest((values[b] - lowest[b]) * inverse[b], f32(0), top)
                difference = scale[b] * number + lowest[b] - values[b]
                best[b] += row[b] * (abs(difference) if absolute else difference * difference)
        for index in range(steps + 1):
            widened = f32(offset) + f32(step) * f32(i32(index)) + top
            for b in range(len(scale)):
                candidate[b] = widened / (highest[b] - lowest[b])
                sum_l[b] = sum_xl[b] = sum_l2[b] = f32(0)
            for i in range(len(x)):
                values, row, found = x[i][columns], weights[i][columns], numbers[i]
                for b in range(len(scale)):
                    number = _nearest((values[b] - lowest[b]) * candidate[b], f32(0), top)
                    product = row[b] * number
                    found[b] = number
                    sum_l[b] += product
                    sum_l2[b] += product * number
                    sum_xl[b] += product * values[b]
            for b in range(len(scale)):
                determinant = sum_w[b] * sum_l2[b] - sum_l[b] * sum_l[b]
                fit = (sum_w[b] * sum_xl[b] - sum_x[b] * sum_l[b]) / determinant
                least = (sum_l2[b] * sum_x[b] - sum_l[b] * sum_xl[b]) / determinant
                new_scale[b] = sum_xl[b] / sum_l2[b] if least > f32(0) else fit
                new_lowest[b] = min(least, f32(0))
                error[b] = f32(0) if determinant > f32(0) else _INFINITY
            for i in range(len(x)):
                values, row, found = x[i][columns], weights[i][columns], numbers[i]
                for b in range(len(scale)):
                    difference = new_scale[b] * found[b] + new_lowest[b] - values[b]
                    error[b] += row[b] * (abs(difference) if absolute else difference * difference)
            for b in range(len(scale)):
                better = error[b] < best[b]
                best[b] = error[b] if better else best[b]
                scale[b] = new_scale[b] if better else scale[b]
                inverse[b] = candidate[b] if better else inverse[b]
                base[b] = lowest[b] if better else base[b]
                lowest[b] = new_lowest[b] if better else lowest[b]
        for b in range(len(scale)):
            minimum[b] = -lowest[b]
            # ggml's rounding makes 0 of infinity: where the range of a block is less than float32 can invert
            inverse[b] = f32(0) if inverse[b] == _INFINITY else inverse[b]


@jit
def begin_greedily(start, stop, x, nmax, largests, squares, numbers, sums):
    """Fill what greedy.fit_greedily begins with: largests [B], squares and numbers [n, B], and sums [2, B]."""
    low, high = f32(-nmax), f32(nmax - 1)
    extreme = np.empty(_COLUMNS, np.float32)
    for first in range(start, stop, _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, stop))
        sum_lx, sum_l2 = sums[0][columns], sums[1][columns]
        _extremes(x, columns, largests[columns], extreme)
        for b in range(len(sum_lx)):
            extreme[b] = low / extreme[b]
            sum_lx[b] = sum_l2[b] = f32(0)
        for i in range(len(x)):
            values, row, number = x[i][columns], squares[i][columns], numbers[i][columns]
            for b in range(len(sum_lx)):
                row[b] = values[b] * values[b]
            for b in range(len(sum_lx)):
                number[b] = _nearest(values[b] * extreme[b], low, high)
            for b in range(len(sum_lx)):
                sum_lx[b] += row[b] * values[b] * number[b]
                sum_l2[b] += row[b] * number[b] * number[b]


@jit
def improve(start, stop, x, weights, low, high, both_positive, numbers, sums):
    """Change integers [n, B] and their sums [2, B] in place as greedy.improve does.

    A row's changes hang on those of the row before: with more columns the processor waits less for them.
    """
    lowest, highest = f32(low), f32(high)
    for first in range(start, stop, 2 * _COLUMNS):
        columns = slice(first, min(first + 2 * _COLUMNS, stop))
        sum_lx, sum_l2 = sums[0][columns], sums[1][columns]
        for _ in range(_ROUNDS):
            changes = i32(0)
            for i in range(len(x)):
                values, row, number = x[i][columns], weights[i][columns], numbers[i][columns]
                for b in range(len(sum_lx)):
                    lx = sum_lx[b] - row[b] * values[b] * number[b]
                    l2 = sum_l2[b] - row[b] * number[b] * number[b]
                    new = _nearest(values[b] * l2 / lx, lowest, highest)
                    new_lx, new_l2 = lx + row[b] * values[b] * new, l2 + row[b] * new * new
                    better = (lx > f32(0)) & (new_l2 > f32(0)) & ((l2 > f32(0)) | (not both_positive))
                    better &= (new != number[b]) & (new_lx * new_lx * sum_l2[b] > sum_lx[b] * sum_lx[b] * new_l2)
                    number[b] = new if better else number[b]
                    sum_lx[b] = new_lx if better else sum_lx[b]
                    sum_l2[b] = new_l2 if better else sum_l2[b]
                    changes = i32(changes + i32(better))
            if changes == 0:
                break


@jit
def to_columns(start, stop, blocks, parts):
    """Fill parts [size, parts of a block * n] with blocks [n, m] as layout.columns does."""
    size, count = len(parts), len(blocks)
    for b in range(start, stop):
        block = blocks[b]
        for part in range(len(block) // size):
            for i in range(size):
                parts[i, part * count + b] = block[part * size + i]


@jit
def divide(start, stop, x, scales, nmax, numbers):
    """Fill numbers [n, B] with the nearest integers to x / scales within -nmax and nmax - 1, plus nmax."""
    low, high = f32(-nmax), f32(nmax - 1)
    for first in range(start, stop, _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, stop))
        scale = scales[columns]
        for i in range(len(x)):
            values, number = x[i][columns], numbers[i][columns]
            for b in range(len(scale)):
                number[b] = _nearest(values[b] / scale[b], low, high) - low


@jit
def sum_rows(start, stop, x, total):
    """Fill total [B] with the sum over rows, from the first to the last."""
    for first in range(start, stop, _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, stop))
        sums = total[columns]
        sums[:] = f32(0)
        for i in range(len(x)):
            values = x[i][columns]
            for b in range(len(sums)):
                sums[b] += values[b]


_LEVELS = np.array(IQ4_VALUES, np.float32)
_MIDDLES = np.array([low + high for low, high in pairwise(IQ4_VALUES)], np.float32)  # doubled
_TRIES = 7


@jit
def _level(doubled):
    """The nearest of IQ4's values, of two equally near the higher one."""
    level = _LEVELS[0]
    for i in range(len(_MIDDLES)):
        level += _LEVELS[i + 1] - _LEVELS[i] if doubled >= _MIDDLES[i] else f32(0)
    return level


@jit
def fit_levels(start, stop, x, weights, scales):
    """Fill scales [B] as encode_iq4.fit_levels does."""
    largest, extreme, candidate, sum_qx, sum_q2, best = np.empty((6, _COLUMNS), np.float32)
    for first in range(start, stop, _COLUMNS):
        columns = slice(first, min(first + _COLUMNS, stop))
        scale = scales[columns]
        _extremes(x, columns, largest[: len(scale)], extreme)
        for step in range(-_TRIES - 1, _TRIES + 1):
            for b in range(len(scale)):
                if step < -_TRIES:
                    candidate[b] = f32(1) / (extreme[b] / -_LEVELS[0])
                else:
                    candidate[b] = (f32(i32(step)) + _LEVELS[0]) / extreme[b]
                sum_qx[b] = sum_q2[b] = f32(0)
            for i in range(len(x)):
                values, row = x[i][columns], weights[i][columns]
                for b in range(len(scale)):
                    level = _level(values[b] * (candidate[b] * f32(2)))
                    product = row[b] * level
                    sum_qx[b] += product * values[b]
                    sum_q2[b] += product * level
            for b in range(len(scale)):
                fit = sum_qx[b] / sum_q2[b] if sum_q2[b] > f32(0) else f32(0)
                better = (step < -_TRIES) | (sum_q2[b] > f32(0)) & (sum_qx[b] * sum_qx[b] > best[b] * sum_q2[b])
                scale[b] = fit if better else scale[b]
                best[b] = fit * sum_qx[b] if better else best[b]
        for b in range(len(scale)):
            scale[b] = f32(0) if largest[b] < _ZERO else scale[b]
