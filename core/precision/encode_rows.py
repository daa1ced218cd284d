"""A tensor's rows to stored bytes, chunk by chunk, with the weights that importance gives each of its blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from core.precision import encode_32, encode_256, encode_iq4
from core.precision.exact import quotient, square_root, sum_rows
from core.precision.formats import Format
from core.precision.scratch import Scratch, scratch_on

_ENCODERS = {
    "Q8_0": encode_32.q8_0,
    "Q5_1": encode_32.q5_1,
    "Q5_0": encode_32.q5_0,
    "Q4_1": encode_32.q4_1,
    "Q4_0": encode_32.q4_0,
    "IQ4_NL": encode_iq4.iq4_nl,
    "MXFP4": encode_32.mxfp4,
    "Q6_K": encode_256.q6_k,
    "Q5_K": encode_256.q5_k,
    "Q4_K": encode_256.q4_k,
    "Q3_K": encode_256.q3_k,
    "Q2_K": encode_256.q2_k,
    "IQ4_XS": encode_iq4.iq4_xs,
}

# Blocks are encoded in multiples of it: the columns that torch.sum takes at once are a multiple of a vector.
_WIDTH = 64
# Formats whose scale follows from the extreme value alone, whatever the weights of importance.
_UNWEIGHTED = {"Q8_0", "MXFP4"}
# Formats whose weights of importance hang on the mean square of the whole row.
_BY_ROW = {"Q5_1", "Q5_0", "Q4_1", "Q4_0"}


def encode_rows(rows: Tensor, entry: Format, importance: Tensor | None, out: Tensor) -> None:
    """Fill out [rows, row bytes] chunk by chunk; a chunk is some blocks, of one row or of several."""
    encoder = _ENCODERS[entry.name]
    size = entry.block_elements
    per_row = rows.shape[1] // size
    blocks, target = rows.reshape(-1, size), out.view(-1, entry.block_bytes)
    scratch = scratch_on(rows.device)
    spread = None
    if entry.name in _UNWEIGHTED:
        importance = None
    if importance is not None:
        importance = _scaled(importance.to(device=rows.device, dtype=torch.float32)).view(per_row, size)
        if entry.name in _BY_ROW:
            spread = _mean_squares(rows, scratch)
    step = _columns(scratch, size)
    for start in range(0, len(blocks), step):
        x = _padded(blocks[start : start + step], scratch)
        weights = None
        if importance is not None:
            places = torch.arange(start, start + len(x), device=rows.device).clamp_(max=len(blocks) - 1)
            weights = scratch.floats("importance", tuple(x.shape))
            torch.index_select(importance, 0, places % per_row, out=weights)
            if spread is not None:
                of_block = spread.index_select(0, places // per_row).unsqueeze(1)
                squares = torch.mul(x, x, out=scratch.floats("squares", tuple(x.shape)))
                weights.mul_(square_root(squares.add_(of_block), scratch))
        chunk = target[start : start + step]
        chunk.copy_(encoder(x, weights, scratch)[: len(chunk)])


def _scaled(importance: Tensor) -> Tensor:
    """Weights so large that squares of their sums might leave float32, over a power of two: it changes no choice."""
    largest = importance.max()
    return torch.ldexp(importance, -torch.frexp(largest).exponent) if largest > 2**30 else importance


def _columns(scratch: Scratch, size: int) -> int:
    """How many rows of `size` weights make a chunk: such that they can be summed quickly (search.Rows).

    Not a power of two: rows of an array that long would all fall on the same lines of a CPU's cache.
    """
    return max(1, scratch.encoded // size // _WIDTH) * _WIDTH + _WIDTH


def _padded(rows: Tensor, scratch: Scratch) -> Tensor:
    """In float32, with rows of zeros up to a multiple of 64."""
    count = -len(rows) % _WIDTH
    if rows.dtype == torch.float32 and not count:
        return rows
    result = scratch.floats("source", (len(rows) + count, rows.shape[1]))
    result[: len(rows)].copy_(rows)
    result[len(rows) :].zero_()
    return result


def _mean_squares(rows: Tensor, scratch: Scratch) -> Tensor:
    """The mean square of each row [rows], summed from its first weight to its last."""
    result = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    step = _columns(scratch, rows.shape[1])
    for start in range(0, len(rows), step):
        part = _padded(rows[start : start + step], scratch)
        squares = scratch.floats("squares", (rows.shape[1], len(part))).copy_(part.t()).square_()
        target = result[start : start + step]
        target.copy_(sum_rows(squares, scratch)[: len(target)])
    return quotient(result, rows.shape[1])
