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

# More than a power of two, lest all rows of an encoder's arrays, [16 or 32, columns], fall on the same lines of a CPU's
# cache: so they begin four or two lines apart.
_BESIDE = 1024
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
    step = (scratch.encoded + _BESIDE) // size
    weighing, squares = None, None
    if importance is not None and entry.name not in _UNWEIGHTED:
        weighing = Importance(importance.to(rows.device), size, min(step, len(blocks)))
        if entry.name in _BY_ROW:
            at_once = max(1, (scratch.encoded + _BESIDE) // rows.shape[1])
            chunks = (_exact(rows[start : start + at_once], scratch) for start in range(0, len(rows), at_once))
            squares = mean_squares(chunks, rows.shape[1], scratch)
    for start in range(0, len(blocks), step):
        x = _exact(blocks[start : start + step], scratch)
        weights = weighing.of(start, len(x), squares) if weighing else None
        target[start : start + step].copy_(encoder(x, weights, scratch))


def _exact(rows: Tensor, scratch: Scratch) -> Tensor:
    """In float32, contiguous."""
    if rows.dtype == torch.float32 and rows.is_contiguous():
        return rows
    return scratch.floats("source", tuple(rows.shape)).copy_(rows)
