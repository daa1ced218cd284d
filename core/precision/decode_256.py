"""Decoders of the formats whose blocks are 256 weights: Q6_K, Q5_K, Q4_K, Q3_K, Q2_K and IQ4_XS.

Each takes blocks [n, block_bytes] of uint8 and fills `out` [n, 256] of float32. Layouts are ggml's (ggml-common.h):
a block has one scale in float16 and a small integer scale for each 16 or 32 weights. The product of both scales and a
weight's integer is exact in float32 (11 + 6 + 6 bits at most), so only the final difference rounds, and fused and
separate arithmetic give the same bits on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.precision.decode_32 import IQ4_VALUES, half, look_up, nibbles
from core.precision.scratch import Scratch


def _words(packed: Tensor, scratch: Scratch) -> tuple[Tensor, ...]:
    """Twelve bytes [n, 12] as three int32 [n]."""
    return scratch.take("words", (len(packed), 12)).copy_(packed).view(torch.int32).unbind(1)


def q6_k(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """128 bytes of low nibbles, 64 of high pairs, 16 signed scales, scale; each number less 32."""
    n = len(blocks)
    packed = scratch.take("packed", (n, 128)).copy_(blocks[:, :128])
    high = scratch.take("high", (n, 64)).copy_(blocks[:, 128:192])
    low = torch.bitwise_and(packed, 15, out=scratch.take("low", (n, 128)))
    halves = (low, packed.bitwise_right_shift_(4))
    numbers = scratch.take("numbers", (n * 2, 4, 32))
    part = scratch.take("part", (n, 64))
    for group in range(4):
        nibble = halves[group // 2].view(n * 2, 2, 32)[:, group % 2]
        shift = 4 - 2 * group  # the pair's two bits to places 4 and 5
        if shift > 0:
            torch.bitwise_left_shift(high, shift, out=part)
        elif shift < 0:
            torch.bitwise_right_shift(high, -shift, out=part)
        pair = torch.bitwise_and(part if shift else high, 0x30, out=part).view(n * 2, 32)
        torch.bitwise_or(nibble, pair, out=numbers[:, group])
    out.copy_(numbers.sub_(32).view(torch.int8).view(n, 256))
    scales = blocks[:, 192:208].view(torch.int8).float() * half(blocks, 208)
    out.view(n * 16, 16).mul_(scales.view(-1, 1))


def _scale_and_shift(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """out * scale - minimum for each 32 of Q4_K and Q5_K: two float16, then twelve bytes of 6-bit scales and minima."""
    n = len(blocks)
    first, second, third = _words(blocks[:, 4:16], scratch)
    rows = (
        first & 0x3F3F3F3F,
        third & 0x0F0F0F0F | first >> 2 & 0x30303030,
        second & 0x3F3F3F3F,
        third >> 4 & 0x0F0F0F0F | second >> 2 & 0x30303030,
    )
    small = torch.stack(rows, dim=1).view(torch.uint8).view(n, 2, 8)
    scales, minima = (small * half(blocks, 0, 2).unsqueeze(2)).unbind(1)
    out.view(-1, 32).mul_(scales.reshape(-1, 1)).sub_(minima.reshape(-1, 1))


def _bit(flags: Tensor, bit: int, place: int, out: Tensor) -> Tensor:
    """One bit of each byte, moved to another place, the others zero."""
    if bit > place:
        flags = torch.bitwise_right_shift(flags, bit - place, out=out)
    elif bit < place:
        flags = torch.bitwise_left_shift(flags, place - bit, out=out)
    return torch.bitwise_and(flags, 1 << place, out=out)


def q5_k(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, minimum, 12 bytes of scales and minima, 32 bytes of fifth bits, 128 of nibbles."""
    n = len(blocks)
    fifth = scratch.take("fifth", (n, 32)).copy_(blocks[:, 16:48])
    packed = scratch.take("packed", (n, 128)).copy_(blocks[:, 48:])
    low = torch.bitwise_and(packed, 15, out=scratch.take("low", (n, 128)))
    halves = (low, packed.bitwise_right_shift_(4))
    numbers = scratch.take("numbers", (n, 8, 32))
    part = scratch.take("part", (n, 32))
    for group in range(8):
        nibble = halves[group % 2].view(n, 4, 32)[:, group // 2]
        torch.bitwise_or(nibble, _bit(fifth, group, 4, part), out=numbers[:, group])
    out.copy_(numbers.view(n, 256))
    _scale_and_shift(blocks, out, scratch)


def q4_k(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, minimum, 12 bytes of scales and minima, 128 bytes of nibbles."""
    n = len(blocks)
    packed = scratch.take("packed", (n, 128)).copy_(blocks[:, 16:])
    part = scratch.take("part", (n, 128))
    by_64 = out.view(n * 4, 2, 32)
    by_64[:, 0].copy_(torch.bitwise_and(packed, 15, out=part).view(n * 4, 32))
    by_64[:, 1].copy_(torch.bitwise_right_shift(packed, 4, out=part).view(n * 4, 32))
    _scale_and_shift(blocks, out, scratch)


def _pair(packed: Tensor, place: int, out: Tensor) -> Tensor:
    """Two neighbouring bits of each byte as a number."""
    shifted = torch.bitwise_right_shift(packed, 2 * place, out=out) if place else packed
    return torch.bitwise_and(shifted, 3, out=out)


def q3_k(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """32 bytes of third bits, 64 of pairs, 12 of signed 6-bit scales, scale; each number less 4."""
    n = len(blocks)
    third = scratch.take("third", (n, 32)).copy_(blocks[:, :32])
    packed = scratch.take("packed", (n, 64)).copy_(blocks[:, 32:96])
    numbers = scratch.take("numbers", (n, 8, 32))
    pair, part = scratch.take("pair", (n, 64)), scratch.take("part", (n, 32))
    for place in range(4):
        _pair(packed, place, pair)
        for half_block in range(2):
            group = 4 * half_block + place
            bit = _bit(third, group, 2, part)
            torch.bitwise_or(pair.view(n, 2, 32)[:, half_block], bit, out=numbers[:, group])
    out.copy_(numbers.sub_(4).view(torch.int8).view(n, 256))
    first, second, high = _words(blocks[:, 96:108], scratch)
    words = (first, second, first >> 4, second >> 4)
    scales = torch.stack([w & 0x0F0F0F0F | (high >> 2 * i & 0x03030303) << 4 for i, w in enumerate(words)], dim=1)
    signed = scales.view(torch.int8) - 32
    out.view(n * 16, 16).mul_((half(blocks, 108) * signed).view(-1, 1))


def q2_k(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """16 bytes of 4-bit scales and minima, 64 of pairs, scale, minimum."""
    n = len(blocks)
    packed = scratch.take("packed", (n, 64)).copy_(blocks[:, 16:80])
    numbers = scratch.take("numbers", (n * 2, 4, 32))
    pair = scratch.take("pair", (n, 64))
    for place in range(4):
        numbers[:, place].copy_(_pair(packed, place, pair).view(n * 2, 32))
    out.copy_(numbers.view(n, 256))
    both = blocks[:, :16]
    by_16 = out.view(n * 16, 16)
    by_16.mul_((half(blocks, 80) * (both & 15)).view(-1, 1)).sub_((half(blocks, 82) * (both >> 4)).view(-1, 1))


def iq4_xs(blocks: Tensor, out: Tensor, scratch: Scratch) -> None:
    """Scale, 2 bytes of high pairs and 4 of low nibbles of eight 6-bit scales, 128 bytes of nibbles (see iq4_nl)."""
    n = len(blocks)
    packed = scratch.take("whole", (n, 128)).copy_(blocks[:, 8:])
    look_up(IQ4_VALUES, nibbles(packed.view(n * 8, 16), scratch.take("numbers", (n * 8, 32)), scratch), out)
    places = torch.arange(8, device=blocks.device)
    high = blocks[:, 2:4].view(torch.int16).to(torch.int32) >> 2 * places & 3
    low = blocks[:, 4:8].repeat_interleave(2, dim=1) >> 4 * (places % 2) & 15
    scales = (low | high << 4) - 32
    out.view(n * 8, 32).mul_((half(blocks, 0) * scales).view(-1, 1))
