"""Between blocks as they are stored, [n, 256] or [n, 32], and the columns that encoders work on.

An encoder's array has one block (or part of one) a column, so that every step of its search is one pass over long
contiguous rows, and a sum over the weights of a block adds rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.precision import compiled
from core.precision.scratch import Scratch


def columns(blocks: Tensor, size: int, scratch: Scratch, name: str = "parts") -> Tensor:
    """Blocks [n, m] to [size, (m / size) * n]: parts of `size` weights, the first part of every block first.

    The result lies in the scratch buffer of that name, and may be overwritten.
    """
    n, m = blocks.shape
    parts = scratch.floats(name, (size, m // size * n))
    if compiled.search("to_columns", blocks, parts, columns=n):
        return parts
    if m == size:
        return scratch.floats(name, (m, n)).copy_(blocks.t())
    return in_parts(scratch.floats("whole", (m, n)).copy_(blocks.t()), size, scratch, name)


def in_parts(whole: Tensor, size: int, scratch: Scratch, name: str) -> Tensor:
    """The same of blocks that are columns already, [m, n], with any stride between their rows."""
    m, n = whole.shape
    result = scratch.floats(name, (size, m // size * n))
    result.view(size, -1, n).copy_(whole.unflatten(0, (-1, size)).transpose(0, 1))
    return result


def elements(parts: Tensor, n: int, scratch: Scratch) -> Tensor:
    """Integers in [size, parts * n], of any dtype, back to uint8 [m, n]: row i has weight i of every block."""
    size = len(parts)
    # far quicker on a CPU than to uint8, and the same low bits
    small = scratch.take("small", tuple(parts.shape), torch.int8).copy_(parts)
    result = scratch.take("elements", (parts.numel() // n, n))
    result.view(-1, size, n).copy_(small.view(torch.uint8).view(size, -1, n).transpose(0, 1))
    return result


def half_bytes(values: Tensor) -> Tensor:
    """Float32 [n] to the bytes of its float16 [2, n]."""
    return values.to(torch.float16).view(torch.uint8).view(-1, 2).t()


def stored(*rows: Tensor) -> Tensor:
    """Fields of uint8 [field bytes, n], in their order, to blocks [n, block bytes], one a column in memory."""
    return torch.cat([field.reshape(-1, field.shape[-1]) for field in rows]).t()


def packed(numbers: Tensor, bits: int, runs: int, size: int) -> Tensor:
    """Numbers [m, n] of few bits into bytes: `runs` runs of `size` rows share `size` bytes, the first run lowest."""
    groups = numbers.view(-1, runs, size, numbers.shape[-1])
    result = groups[:, 0].clone()
    for run in range(1, runs):
        result.bitwise_or_(groups[:, run] << bits * run)
    return result.flatten(0, 1)
