"""A tensor's rows to stored bytes, chunk by chunk, with the weights that importance gives each of its blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from core.precision import encode_32, encode_256, encode_iq4
from core.precision.formats import Format
from core.precision.importance import Importance, mean_squares
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
    blocks, target = rows.reshape(-1, size), out.view(-1, entry.block_bytes)
    scratch = scratch_on(rows.device)
    step = _columns(scratch, size)
    if entry.name == "Q3_K" and importance is None and rows.device.type == "cpu":
        step *= 4  # many of its passes are over few columns: with fewer yet the cost of starting operations shows
    weighing, squares = None, None
    if importance is not None and entry.name not in _UNWEIGHTED:
        weighing = Importance(importance.to(rows.device), size, min(step, len(blocks) + _WIDTH))
        if entry.name in _BY_ROW:
            at_once = _columns(scratch, rows.shape[1])
            chunks = (_padded(rows[start : start + at_once], scratch) for start in range(0, len(rows), at_once))
            squares = mean_squares(chunks, len(rows), rows.shape[1], scratch)
    for start in range(0, len(blocks), step):
        x = _padded(blocks[start : start + step], scratch)
        weights = weighing.of(start, len(x), squares) if weighing else None
        chunk = target[start : start + step]
        chunk.copy_(encoder(x, weights, scratch)[: len(chunk)])


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
