"""Decoders of the formats whose blocks are 32 weights: Q8_0, Q5_1, Q5_0, Q4_1, Q4_0, IQ4_NL and MXFP4.

Each takes blocks [n, block_bytes] of uint8 and fills `out` [n, 32] of float32. Layouts are ggml's (ggml-common.h).
Every product of a scale and a weight's integer is exact in float32 (11 + 8 bits at most), so fused and separate
arithmetic give the same bits on every device.

The cost on a CPU is the number of passes and the length of their inner loops, hence flat passes over contiguous bytes
and few over short rows.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from core.precision.scratch import Scratch

# ggml's kvalues_iq4nl, and twice the values of OCP's E2M1 (kvalues_mxfp4).
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


@cache
def _values_of_pairs(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Two 4-bit numbers, one in each byte of an int16, to their two values side by side: complex64 [4096]."""
    single = torch.zeros(256, dtype=torch.float32)
    single[:16] = torch.tensor(values, dtype=torch.float32)
    places = torch.arange(4096)
    return torch.complex(single[places & 255], single[places >> 8]).to(device)


@cache
def _bits_of_bytes(device: torch.device) -> Tensor:
    """A byte to eight bytes that hold its bits as 16 or 0, the lowest bit first: int64 [256]."""
    every = torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1
    return (every << 4).to(torch.uint8).view(torch.int64)[:, 0].to(device)


def half(blocks: Tensor, offset: int, count: int = 1) -> Tensor:
    """The float16 at a byte offset of each block, as float32 [n, count]."""
    return blocks[:, offset : offset + 2 * count].view(torch.float16).float()


def nibbles(packed: Tensor, out: Tensor, scratch: Scratch) -> Tensor:
    """Bytes [n, 16] to 4-bit numbers [n, 32]: a block's low halves first, then its high halves."""
    flat = scratch.take("packed", tuple(packed.shape)).copy_(packed)
    if flat.device.type != "cpu":
        torch.bitwise_and(flat, 15, out=out[:, :16])
        torch.bitwise_right_shift(flat, 4, out=out[:, 16:])
        return out
    # Rows of 16 bytes as single elements: one loop over the blocks instead of one for each row.
    pairs = out.view(torch.complex128)
    part = scratch.take("part", tuple(packed.shape))
    pairs[:, :1].copy_(torch.bitwise_and(flat, 15, out=part).view(torch.complex128))
    pairs[:, 1:].copy_(torch.bitwise_right_shift(flat, 4, out=part).view(torch.complex128))
    return out


def add_fifth_bits(bits: Tensor, numbers: Tensor, scratch: Scratch) -> None:
    """Bit i of the four bytes [n, 4] becomes bit 4 of the i-th number [n, 32]."""
    wide = torch.index_select(_bits_of_bytes(bits.device), 0, bits.reshape(-1).to(torch.int32))
    numbers.view(torch.int64).view(-1).bitwise_or_(wide)


def look_up(values: tuple[int, ...], numbers: Tensor, out: Tensor) -> None:
    """4-bit numbers [n, 32] to values of a table as float32 [n, 32], two at a time."""
    pairs = numbers.view(torch.int16).view(-1).to(torch.int32)
    torch.index_select(_values_of_pairs(values, numbers.device), 0, pairs, out=out.view(-1).view(torch.complex64))


def q8_0(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, 32 signed bytes."""
    out.copy_(blocks[:, 2:].view(torch.int8))
    out.mul_(half(blocks, 0))


def q4_0(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, 16 bytes of nibbles, each less 8."""
    numbers = nibbles(blocks[:, 2:], scratch.take("numbers", (len(blocks), 32)), scratch).sub_(8)
    out.copy_(numbers.view(torch.int8))
    out.mul_(half(blocks, 0))


def q4_1(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, minimum, 16 bytes of nibbles."""
    out.copy_(nibbles(blocks[:, 4:], scratch.take("numbers", (len(blocks), 32)), scratch))
    out.mul_(half(blocks, 0)).add_(half(blocks, 2))


def q5_0(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, 4 bytes of fifth bits, 16 bytes of nibbles; each number less 16."""
    numbers = nibbles(blocks[:, 6:], scratch.take("numbers", (len(blocks), 32)), scratch)
    add_fifth_bits(blocks[:, 2:6], numbers, scratch)
    out.copy_(numbers.sub_(16).view(torch.int8))
    out.mul_(half(blocks, 0))


def q5_1(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, minimum, 4 bytes of fifth bits, 16 bytes of nibbles."""
    numbers = nibbles(blocks[:, 8:], scratch.take("numbers", (len(blocks), 32)), scratch)
    add_fifth_bits(blocks[:, 4:8], numbers, scratch)
    out.copy_(numbers)
    out.mul_(half(blocks, 0)).add_(half(blocks, 2))


def iq4_nl(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, 16 bytes of nibbles that choose among sixteen values."""
    look_up(IQ4_VALUES, nibbles(blocks[:, 2:], scratch.take("numbers", (len(blocks), 32)), scratch), out)
    out.mul_(half(blocks, 0))


def mxfp4(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Exponent of two (E8M0), 16 bytes of nibbles (E2M1)."""
    numbers = scratch.take("numbers", (len(blocks), 32))
    nibbles(blocks[:, 1:], numbers, scratch)
    look_up(MXFP4_VALUES, numbers, out)
    out.mul_(e8m0_half(blocks[:, :1]))


def e8m0_half(exponents: Tensor) -> Tensor:
    """2 ** (e - 128) as float32, half of what E8M0 says: for doubled values (ggml_e8m0_to_fp32_half)."""
    e = exponents.to(torch.int32)
    bits = torch.where(e < 2, 0x00200000 << e.clamp(max=1), (e - 1) << 23)
    return bits.view(torch.float32)
