"""Arithmetic that rounds exactly as ggml's C code does, over arrays of float32 [n, B] with one block a column.

An encoder's bytes hang on which of two nearly equal candidates wins, and that on the last bit. So quotients and roots
are rounded once, and sums go row after row, none of which torch promises.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from core.precision import compiled
from core.precision.scratch import Scratch

# Adding it leaves the nearest integer in the low bits of a float32 (ties to even).
_ROUNDER = 12582912.0
# The least float32 above zero: clamping to it changes zero (and negative numbers) only.
TINY = 1e-45


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


def sum_rows(rows: Tensor) -> Tensor:
    """The sum of [n, B] over its rows, from the first to the last: [B]."""
    total = torch.zeros_like(rows[0])
    if not compiled.search("sum_rows", rows, total):
        for row in rows:
            total.add_(row)
    return total
