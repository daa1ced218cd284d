"""Arithmetic that rounds exactly as ggml's C code does, over arrays of float32 [n, B] with one block a column.

An encoder's bytes hang on which of two nearly equal candidates wins, and that on the last bit. So quotients and roots
are rounded once, and sums go row after row, none of which torch promises.
"""

from __future__ import annotations

from functools import cache

import numpy
import torch
from torch import Tensor

from core.precision.scratch import Scratch

# Adding it leaves the nearest integer in the low bits of a float32 (ties to even).
_ROUNDER = 12582912.0
# The least float32 above zero: clamping to it changes zero (and negative numbers) only.
TINY = 1e-45
# Rows that torch.sum adds one after another before it begins a second partial sum (its cascade step).
_CASCADE = 16


def nearest_int(values: Tensor) -> Tensor:
    """ggml's nearest_int, in place: int32 in the memory of `values`.

    Beyond 2**22 it wraps, and NaN becomes 0, as in ggml.
    """
    return values.add_(_ROUNDER).view(torch.int32).bitwise_and_(0x007FFFFF).sub_(0x00400000)


def quotient(dividend: Tensor | float, divisor: Tensor | float) -> Tensor:
    """dividend / divisor, rounded once.

    torch multiplies by a rounded reciprocal where the dividend is a number, and on CUDA where the divisor is one.
    """
    device = (
        dividend.device if isinstance(dividend, Tensor) else divisor.device if isinstance(divisor, Tensor) else None
    )
    first, second = (
        part if isinstance(part, Tensor) else torch.full((), part, dtype=torch.float32, device=device)
        for part in (dividend, divisor)
    )
    return torch.div(first, second)


def square_root(values: Tensor, scratch: Scratch) -> Tensor:
    """In place, the root rounded once as C's sqrtf does, where torch.sqrt can be one unit off in the last place."""
    if values.device.type == "cpu":
        array = values.numpy()
        numpy.sqrt(array, out=array)
        return values
    if values.device.type == "mps":  # which has no float64
        return values.sqrt_()
    return values.copy_(scratch.take("wide", tuple(values.shape), torch.float64).copy_(values).sqrt_())


@cache
def _sums_in_order(width: int, threads: int) -> bool:
    """Whether this build's torch.sum adds 16 and 17 rows of this width one after another."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(_CASCADE + 1, width, generator=generator, dtype=torch.float32) + 0.1
    total = rows[0].clone()
    for row in rows[1:-1]:
        total.add_(row)
    return torch.equal(rows[:-1].sum(0), total) and torch.equal(rows.sum(0), total + rows[-1])


class Rows:
    """An array [n, B] whose rows are summed from the first to the last, in that order of rounding.

    torch.sum adds 16 rows one after another and then begins another partial sum. So between every 16 rows lies one
    that takes the sum so far, and 17 rows are summed the next time: as quick as reading them, where adding row by row
    costs several times that. Whether torch.sum does so is tried once for each width; where it does not (other devices,
    other builds) rows are added singly.
    """

    def __init__(self, scratch: Scratch, name: str, n: int, width: int) -> None:
        groups, size = max(1, n // _CASCADE), min(n, _CASCADE)
        if groups * size != n:
            raise ValueError(f"{n} rows are neither at most {_CASCADE} nor a multiple of it")
        whole = scratch.floats(name, (groups, size + 1, width))
        self.values = whole[:, :size]
        """The array, [n / 16, 16, B] (or [1, n, B])."""
        flat = whole.view(-1, width)
        starts = [0, *range(size, groups * (size + 1) - 1, size + 1)]
        self._steps = [
            (flat[start : group * (size + 1) + size], flat[group * (size + 1) + size])
            for group, start in enumerate(starts)
        ]
        self._quick = scratch.device.type == "cpu" and _sums_in_order(width, torch.get_num_threads())

    def sum(self, out: Tensor) -> Tensor:
        """Their sum, into [B]."""
        if self._quick:
            for rows, after in self._steps[:-1]:
                torch.sum(rows, dim=0, out=after)
            return torch.sum(self._steps[-1][0], dim=0, out=out)
        out.zero_()
        for group in self.values:
            for row in group:
                out.add_(row)
        return out


def grouped(x: Tensor) -> Tensor:
    """An array [n, B] in the shape of Rows.values."""
    return x.view(-1, min(len(x), _CASCADE), x.shape[1])


def sum_rows(rows: Tensor, scratch: Scratch) -> Tensor:
    """The sum of [n, B] over its rows, from the first to the last: [B]."""
    work = Rows(scratch, "rows", *rows.shape)
    work.values.copy_(grouped(rows))
    return work.sum(torch.empty_like(rows[0]))


def above_zero(values: Tensor) -> Tensor:
    """1 where positive, else 0, in place.

    With lerp a choice as torch.where makes it; but that and comparisons are not vectorised on a CPU, and these are.
    """
    return values.sign_().clamp_(min=0.0)
