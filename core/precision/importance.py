"""Weights of importance: how much an error in each column of a tensor matters, block by block as encoders take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core.precision.exact import quotient, square_root, sum_rows
from core.precision.layout import in_parts
from core.precision.scratch import Scratch


@dataclass(frozen=True)
class Weights:
    """The weights of n neighbouring blocks of m."""

    blocks: Tensor
    """[m, n], one block a column."""
    mean_squares: Tensor | None
    """Of each block's row, [n]; only for formats whose weights hang on that."""

    def columns(self, size: int, scratch: Scratch) -> Tensor:
        """Parts of `size` weights, [size, m / size * n], as layout.columns gives those of the blocks."""
        return in_parts(self.blocks, size, scratch, "weights")


class Importance:
    """An importance matrix's column weights, repeated for every row of a tensor."""

    def __init__(self, importance: Tensor, size: int, most: int) -> None:
        """For blocks of `size`, of which at most `most` are asked for at once; `importance` is one row [length]."""
        scaled = _scaled(importance.to(torch.float32)).view(-1, size)
        self._per_row = len(scaled)
        places = torch.arange(self._per_row + most, device=scaled.device) % self._per_row
        self._blocks = scaled.t().contiguous().index_select(1, places)

    def of(self, start: int, count: int, mean_squares: Tensor | None) -> Weights:
        """The weights of `count` blocks from the tensor's block `start` on. `mean_squares` are those of all rows."""
        place = start % self._per_row
        spread = None
        if mean_squares is not None:
            rows = torch.arange(start, start + count, device=self._blocks.device) // self._per_row
            spread = mean_squares.index_select(0, rows)
        return Weights(self._blocks[:, place : place + count], spread)


def importance_weights(parts: Tensor, importance: Tensor, spread: Tensor, scratch: Scratch) -> Tensor:
    """ggml's weights of the error: importance * sqrt(spread + x * x); `spread` [n] belongs to whole blocks.

    Parts are [size, parts * n], the first part of every block first. Overwrites `importance` with them.
    """
    squares = torch.mul(parts, parts, out=scratch.floats("squares", tuple(parts.shape)))
    squares.view(len(parts), -1, len(spread)).add_(spread)
    return importance.mul_(square_root(squares, scratch))


def mean_squares(chunks: Iterator[Tensor], length: int, scratch: Scratch) -> Tensor:
    """The mean square of each row [rows], summed from its first weight to its last.

    `chunks` are the rows in float32 [some, length], one after another.
    """
    found = []
    for part in chunks:
        squares = scratch.floats("squares", (length, len(part))).copy_(part.t()).square_()
        found.append(sum_rows(squares))
    return quotient(torch.cat(found), length)


def _scaled(importance: Tensor) -> Tensor:
    """Weights so large that squares of their sums might leave float32, over a power of two: it changes no choice."""
    largest = importance.max()
    return torch.ldexp(importance, -torch.frexp(largest).exponent) if largest > 2**30 else importance
