"""Triton kernels that decode Q8_0, Q6_K, Q5_K and Q4_K: stored bytes in, numbers out, each byte read once.

The only module that imports triton; core.precision.kernels decides whether it is. Layouts are ggml's (ggml-common.h).
The arithmetic is that of decode_32 and decode_256 step by step, whose products are exact, so bits are the same whether
or not a compiler fuses a product and a difference.

A program decodes ROWS neighbouring blocks. The last one, where fewer are left, decodes the last block again and again
and writes the same numbers each time: a mask on every load makes a branch of each on AMD's cards (6.5 to 13.9
instructions for a number in F16 instead of 5.1 to 9.0, in the machine code that Triton 3.9 makes for gfx1101).
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the kernels' annotations as its own types.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

_jit: Callable[[Callable[..., None]], Any] = triton.jit(do_not_specialize=["n"])
_function: Callable[[Callable[..., Any]], Any] = triton.jit


@_function
def _blocks_of(data, out, n, ROWS: tl.constexpr, BYTES: tl.constexpr, ELEMENTS: tl.constexpr):
    """This program's part of data and out, and how many blocks there are from there on."""
    first = tl.program_id(0).to(tl.int64) * ROWS  # a large table's bytes do not fit in 32 bits
    return data + first * BYTES, out + first * ELEMENTS, n - first


@_function
def _shifted(byte, left: tl.constexpr):
    """A byte moved up, or down where `left` is negative."""
    if left >= 0:
        return byte << left
    else:  # noqa: RET505 (only one branch is compiled)
        return byte >> -left


@_function
def _store(out, offsets, values):
    tl.store(out + offsets, values.to(out.dtype.element_ty))


@_jit
def _q8_0(data, out, n, ROWS: tl.constexpr):
    """Scale, 32 signed bytes."""
    data, out, left = _blocks_of(data, out, n, ROWS, 34, 32)
    rows = tl.minimum(tl.arange(0, ROWS), left - 1).to(tl.int32)
    columns = tl.arange(0, 32)
    scale = tl.load(data.to(tl.pointer_type(tl.float16)) + rows * 17).to(tl.float32)
    number = tl.load(data + (rows * 34 + 2)[:, None] + columns[None, :]).to(tl.int8, bitcast=True)
    _store(out, (rows * 32)[:, None] + columns[None, :], number.to(tl.float32) * scale[:, None])


@_jit
def _q6_k(data, out, n, ROWS: tl.constexpr):
    """128 bytes of low nibbles, 64 of high pairs, 16 signed scales, scale; each number less 32.

    Scales are for 16 weights, so a row of the tile is 16 bytes: every second one is the other half of 32.
    """
    data, out, left = _blocks_of(data, out, n, ROWS, 210, 256)
    rows = tl.arange(0, 2 * ROWS)
    block = tl.minimum(rows // 2, left - 1).to(tl.int32)
    odd = rows % 2
    columns = tl.arange(0, 16)
    source = (block * 210 + odd * 16)[:, None] + columns[None, :]
    target = (block * 256 + odd * 16)[:, None] + columns[None, :]
    common = tl.load(data.to(tl.pointer_type(tl.float16)) + block * 105 + 104).to(tl.float32)
    scales = data.to(tl.pointer_type(tl.int8)) + block * 210 + odd + 192
    for half in tl.static_range(2):
        high = tl.load(data + source + (128 + 32 * half)).to(tl.int32)
        for side in tl.static_range(2):
            low = tl.load(data + source + (64 * half + 32 * side)).to(tl.int32)
            for upper in tl.static_range(2):
                group = 2 * upper + side
                number = (_shifted(low, -4 * upper) & 15 | _shifted(high, 4 - 2 * group) & 48) - 32
                scale = tl.load(scales + (8 * half + 2 * group)).to(tl.float32) * common
                _store(out, target + (128 * half + 32 * group), number.to(tl.float32) * scale[:, None])


@_jit
def _q4_or_q5_k(data, out, n, ROWS: tl.constexpr, FIFTH: tl.constexpr):
    """Scale, minimum, 12 bytes of 6-bit scales and minima, with FIFTH 32 bytes of fifth bits, 128 of nibbles."""
    BYTES: tl.constexpr = 176 if FIFTH else 144
    data, out, left = _blocks_of(data, out, n, ROWS, BYTES, 256)
    rows = tl.minimum(tl.arange(0, ROWS), left - 1).to(tl.int32)
    columns = tl.arange(0, 32)
    source = (rows * BYTES)[:, None] + columns[None, :]
    target = (rows * 256)[:, None] + columns[None, :]
    halves = data.to(tl.pointer_type(tl.float16)) + rows * (BYTES // 2)
    scale, minimum = tl.load(halves).to(tl.float32), tl.load(halves + 1).to(tl.float32)
    words = data.to(tl.pointer_type(tl.int32)) + rows * (BYTES // 4)
    first, second, third = tl.load(words + 1), tl.load(words + 2), tl.load(words + 3)
    scales_high = third & 0x0F0F0F0F | (first >> 2) & 0x30303030
    minima_high = (third >> 4) & 0x0F0F0F0F | (second >> 2) & 0x30303030
    fifth = tl.load(data + source + 16).to(tl.int32) if FIFTH else 0
    for pair in tl.static_range(4):
        low = tl.load(data + source + (BYTES - 128 + 32 * pair)).to(tl.int32)
        for upper in tl.static_range(2):
            group = 2 * pair + upper
            number = _shifted(low, -4 * upper) & 15
            if FIFTH:
                number |= _shifted(fifth, 4 - group) & 16
            place = 8 * (group % 4)
            small = ((first if group < 4 else scales_high) >> place) & 63
            less = ((second if group < 4 else minima_high) >> place) & 63
            values = number.to(tl.float32) * (small.to(tl.float32) * scale)[:, None]
            _store(out, target + 32 * group, values - (less.to(tl.float32) * minimum)[:, None])


# A format's kernel, what is fixed in it, and the blocks that a program of 128 threads decodes: with 16 bytes written
# at once, a thread makes 64 numbers of a K format and 32 of Q8_0.
_WARPS = 4
KERNELS: dict[str, tuple[Any, dict[str, bool]]] = {
    "Q8_0": (_q8_0, {}),
    "Q6_K": (_q6_k, {}),
    "Q5_K": (_q4_or_q5_k, {"FIFTH": True}),
    "Q4_K": (_q4_or_q5_k, {"FIFTH": False}),
}
ROWS = {"Q8_0": 128, "Q6_K": 32, "Q5_K": 32, "Q4_K": 32}


def launch(blocks: torch.Tensor, name: str, out: torch.Tensor) -> None:
    """Decode blocks of a format, uint8 [n, block_bytes], into out [n, block_elements] of F32, F16 or BF16.

    Both contiguous and on one device; the blocks at an address that divides by 4.

    Raises:
        Exception: any of Triton's, where it cannot compile for the device or finds no C compiler for its launcher.
    """
    kernel, fixed = KERNELS[name]
    rows = ROWS[name]
    if not len(blocks):
        return
    with torch.cuda.device_of(blocks):
        grid = (triton.cdiv(len(blocks), rows),)
        # fusion is harmless (see above), and named because Triton's default changes with its version
        kernel[grid](blocks, out, len(blocks), ROWS=rows, **fixed, num_warps=_WARPS, enable_fp_fusion=True)
