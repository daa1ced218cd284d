"""Seeded damage to a file: bits flipped, ranges cut, inserted or swapped, and numbers made huge."""

from __future__ import annotations

import random
import struct

HUGE = (2**63, 2**64 - 1, 2**62, 2**40, 2**32 - 1, 2**31, 0, 1)


def mutate(data: bytes, seed: int, header: int) -> bytes:
    """One to three mutations, most of them in the first `header` bytes."""
    chance = random.Random(seed)
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        reach = max(1, min(header if chance.random() < 0.85 else len(result), len(result)))
        at = chance.randrange(reach)
        match chance.randrange(7):
            case 0:
                result[at] ^= 1 << chance.randrange(8)
            case 1:
                del result[at:]
            case 2:
                del result[at : at + chance.randrange(1, 64)]
            case 3:
                result[at:at] = chance.randbytes(chance.randrange(1, 64))
            case 4:
                result[at : at + 8] = struct.pack("<Q", chance.choice(HUGE))
            case 5:  # swap two ranges, often two offsets
                size, other = chance.choice((4, 8)), chance.randrange(reach)
                low, high = min(at, other), max(at, other)
                if low + size <= high and high + size <= len(result):
                    result[low : low + size], result[high : high + size] = (
                        result[high : high + size],
                        result[low : low + size],
                    )
            case _:  # one digit or letter for another, which JSON may survive
                result[at] = chance.choice(b'0123456789"[]{},:F')
    return bytes(result)
