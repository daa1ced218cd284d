"""Decoders for a CPU, compiled by numba: each stored byte is read once, and numbers leave in the dtype wanted.

A kernel takes blocks, uint8 [n, block bytes], and fills out [n, parts of a block, weights of a part] in one of SEEN.
Layouts are ggml's (ggml-common.h). Arithmetic is that of decode_32 and decode_256 step by step.
"""

# mypy: disable-error-code="no-untyped-def"
# numba reads no annotations.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from core.precision.compiled import spread
from core.precision.decode_32 import IQ4_VALUES, MXFP4_VALUES
from core.precision.formats import Format
from core.precision.numba_jit import f32, from_bits, half, i32, jit, rounded, u32

# The dtypes that kernels write, and what numba sees them as.
SEEN = {torch.float32: torch.float32, torch.float16: torch.uint16, torch.bfloat16: torch.int16}


@jit
def _q8_0(data, out):
    """Scale, 32 signed bytes."""
    for i in range(len(data)):
        block, low, high = data[i], out[i, 0], out[i, 1]
        d = half(block[0], block[1])
        for j in range(len(low)):
            low[j] = rounded(f32(i32(np.int8(block[2 + j]))) * d, out)
            high[j] = rounded(f32(i32(np.int8(block[18 + j]))) * d, out)


@jit
def _of_nibbles(data, out, at, minimum, fifth, less):
    """Scale, perhaps minimum, perhaps 4 bytes of fifth bits, 16 bytes of nibbles from `at` on; each number less."""
    for i in range(len(data)):
        block, low, high = data[i], out[i, 0], out[i, 1]
        packed, bits = block[at:], block[at - 4 :]
        d = half(block[0], block[1])
        m = half(block[2], block[3]) if minimum else f32(-0.0)  # which added changes nothing
        if fifth:
            flags = u32(0)
            for place in range(4):
                flags = u32(flags | u32(bits[place]) << 8 * place)
            for j in range(len(low)):
                byte = u32(packed[j])
                ones = u32(byte & 15) | u32(u32(flags >> u32(j)) & 1) << 4
                twos = u32(byte >> 4) | u32(u32(flags >> u32(j + 16)) & 1) << 4
                low[j] = rounded(f32(i32(i32(ones) - less)) * d + m, out)
                high[j] = rounded(f32(i32(i32(twos) - less)) * d + m, out)
        else:
            for j in range(len(low)):
                low[j] = rounded(f32(i32(i32(packed[j] & 15) - less)) * d + m, out)
                high[j] = rounded(f32(i32(i32(packed[j] >> 4) - less)) * d + m, out)


@jit
def _looked_up(data, out, table, exponent):
    """Scale, or an exponent of two (E8M0), then 16 bytes of nibbles that choose among the values of a table."""
    at = 1 if exponent else 2
    for i in range(len(data)):
        block, low, high = data[i], out[i, 0], out[i, 1]
        if exponent:  # half of what it says, since the table's values are doubled
            e = u32(block[0])
            d = from_bits(u32(0x00200000 << e) if e < 2 else u32(u32(e - 1) << 23))
        else:
            d = half(block[0], block[1])
        packed = block[at:]
        for j in range(len(low)):
            low[j] = rounded(table[packed[j] & 15] * d, out)
            high[j] = rounded(table[packed[j] >> 4] * d, out)


@jit
def _q6_k(data, out):
    """128 bytes of low nibbles, 64 of high pairs, 16 signed scales, scale; each number less 32."""
    for i in range(len(data)):
        block = data[i]
        d = half(block[208], block[209])
        for part in range(out.shape[1]):
            values = out[i, part]
            side, group, odd = part // 8, part % 8 // 2, part % 2
            low = block[64 * side + 32 * (group % 2) + 16 * odd :]
            high = block[128 + 32 * side + 16 * odd :]
            down, pair = u32(4 * (group // 2)), u32(2 * group)
            scale = f32(i32(np.int8(block[192 + part]))) * d
            for j in range(len(values)):
                number = u32(u32(low[j]) >> down) & 15 | u32(u32(u32(high[j]) >> pair) & 3) << 4
                values[j] = rounded(f32(i32(i32(number) - 32)) * scale, out)


@jit
def _q4_or_q5_k(data, out, fifth):
    """Scale, minimum, 12 bytes of 6-bit scales and minima, perhaps 32 of fifth bits, 128 of nibbles."""
    at = 48 if fifth else 16
    for i in range(len(data)):
        block = data[i]
        d, least = half(block[0], block[1]), half(block[2], block[3])
        for part in range(out.shape[1]):
            values = out[i, part]
            if part < 4:
                small, less = block[4 + part] & 63, block[8 + part] & 63
            else:
                small = block[8 + part] & 15 | block[part] >> 6 << 4
                less = block[8 + part] >> 4 | block[4 + part] >> 6 << 4
            scale, minimum = f32(i32(small)) * d, f32(i32(less)) * least
            packed = block[at + part // 2 * 32 :]
            down, bit = u32(part % 2 * 4), u32(part)
            if fifth:
                for j in range(len(values)):
                    number = u32(u32(packed[j]) >> down) & 15 | u32(u32(u32(block[16 + j]) >> bit) & 1) << 4
                    values[j] = rounded(f32(i32(number)) * scale - minimum, out)
            else:
                for j in range(len(values)):
                    values[j] = rounded(f32(i32(u32(u32(packed[j]) >> down) & 15)) * scale - minimum, out)


@jit
def _q3_k(data, out):
    """32 bytes of third bits, 64 of pairs, 12 of signed 6-bit scales, scale; each number less 4."""
    for i in range(len(data)):
        block = data[i]
        d = half(block[108], block[109])
        for part in range(out.shape[1]):
            values = out[i, part]
            side, group, odd = part // 8, part % 8 // 2, part % 2
            third, pairs = block[16 * odd :], block[32 + 32 * side + 16 * odd :]
            bit, pair = u32(part // 2), u32(2 * group)
            small = block[96 + part % 8] >> part // 8 * 4 & 15 | (block[104 + part % 4] >> part // 4 * 2 & 3) << 4
            scale = d * f32(i32(i32(small) - 32))
            for j in range(len(values)):
                number = u32(u32(pairs[j]) >> pair) & 3 | u32(u32(u32(third[j]) >> bit) & 1) << 2
                values[j] = rounded(f32(i32(i32(number) - 4)) * scale, out)


@jit
def _q2_k(data, out):
    """16 bytes of 4-bit scales and minima, 64 of pairs, scale, minimum."""
    for i in range(len(data)):
        block = data[i]
        d, least = half(block[80], block[81]), half(block[82], block[83])
        for part in range(out.shape[1]):
            values = out[i, part]
            pairs = block[16 + part // 8 * 32 + part % 2 * 16 :]
            pair = u32(part % 8 // 2 * 2)
            scale, minimum = d * f32(i32(block[part] & 15)), least * f32(i32(block[part] >> 4))
            for j in range(len(values)):
                values[j] = rounded(f32(i32(u32(u32(pairs[j]) >> pair) & 3)) * scale - minimum, out)


@jit
def _iq4_xs(data, out, table):
    """Scale, 2 bytes of high pairs and 4 of low nibbles of eight 6-bit scales, 128 bytes of nibbles (see iq4_nl)."""
    for i in range(len(data)):
        block = data[i]
        d = half(block[0], block[1])
        pairs = u32(block[2]) | u32(block[3]) << 8
        for part in range(out.shape[1] // 2):
            low, high = out[i, 2 * part], out[i, 2 * part + 1]
            small = block[4 + part // 2] >> part % 2 * 4 & 15 | (pairs >> 2 * part & 3) << 4
            scale = d * f32(i32(i32(small) - 32))
            packed = block[8 + 16 * part :]
            for j in range(len(low)):
                low[j] = rounded(table[packed[j] & 15] * scale, out)
                high[j] = rounded(table[packed[j] >> 4] * scale, out)


_IQ4, _MXFP4 = (np.array(values, np.float32) for values in (IQ4_VALUES, MXFP4_VALUES))

# A format's kernel, the parts that it divides a block into, and the arguments that follow.
_KERNELS: dict[str, tuple[Callable[..., None], int, tuple[object, ...]]] = {
    "Q8_0": (_q8_0, 2, ()),
    "Q5_1": (_of_nibbles, 2, (8, True, True, 0)),
    "Q5_0": (_of_nibbles, 2, (6, False, True, 16)),
    "Q4_1": (_of_nibbles, 2, (4, True, False, 0)),
    "Q4_0": (_of_nibbles, 2, (2, False, False, 8)),
    "IQ4_NL": (_looked_up, 2, (_IQ4, False)),
    "MXFP4": (_looked_up, 2, (_MXFP4, True)),
    "Q6_K": (_q6_k, 16, ()),
    "Q5_K": (_q4_or_q5_k, 8, (True,)),
    "Q4_K": (_q4_or_q5_k, 8, (False,)),
    "Q3_K": (_q3_k, 16, ()),
    "Q2_K": (_q2_k, 16, ()),
    "IQ4_XS": (_iq4_xs, 16, (_IQ4,)),
}


def launch(blocks: Tensor, entry: Format, out: Tensor) -> None:
    """Decode blocks, uint8 [n, block_bytes] on a CPU, into out [n, block_elements] of a dtype of SEEN; contiguous."""
    kernel, parts, arguments = _KERNELS[entry.name]
    data = blocks.numpy()
    shape = (len(data), parts, entry.block_elements // parts)
    numbers = out.detach().view(SEEN[out.dtype]).numpy().reshape(shape)
    spread(
        len(data),
        entry.block_elements,
        lambda start, stop: kernel(data[start:stop], numbers[start:stop], *arguments),
    )
