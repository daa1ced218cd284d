"""Blocks of packed formats to numbers by torch's own operations: on every device, and the reference of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from core.precision import decode_32, decode_256
from core.precision.formats import Format
from core.precision.scratch import scratch_on

_DECODERS = {
    "Q8_0": decode_32.q8_0,
    "Q5_1": decode_32.q5_1,
    "Q5_0": decode_32.q5_0,
    "Q4_1": decode_32.q4_1,
    "Q4_0": decode_32.q4_0,
    "IQ4_NL": decode_32.iq4_nl,
    "MXFP4": decode_32.mxfp4,
    "Q6_K": decode_256.q6_k,
    "Q5_K": decode_256.q5_k,
    "Q4_K": decode_256.q4_k,
    "Q3_K": decode_256.q3_k,
    "Q2_K": decode_256.q2_k,
    "IQ4_XS": decode_256.iq4_xs,
}


def decode_blocks(blocks: Tensor, entry: Format, out: Tensor) -> None:
    """Decode uint8 [n, block_bytes] into out [n, block_elements], chunk by chunk; not float32 by way of float32."""
    decoder = _DECODERS[entry.name]
    scratch = scratch_on(blocks.device)
    step = scratch.decoded // entry.block_elements
    direct = out.dtype == torch.float32 and out.storage_offset() % 2 == 0  # decoders write pairs
    for start in range(0, len(blocks), step):
        chunk, target = blocks[start : start + step], out[start : start + step]
        if direct:
            decoder(chunk, target, scratch)
        else:
            values = scratch.floats("values", (len(chunk), entry.block_elements))
            decoder(chunk, values, scratch)
            target.copy_(values)
