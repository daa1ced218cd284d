"""What leaves when room is needed: what costs least to bring back for each byte, and only as many bytes as are needed.

A byte is worth the seconds that bringing it back takes, times the chance that it is wanted next. A component leaves
part by part (an allocation each) in an order of its own; of those with parts that are worth equally much the one that
was used last stays longest.

Choosing whole parts that free enough and are worth least is the minimum knapsack problem. Parts go by rising worth of a
byte as long as they do not suffice; each that would is tried as the last one, and the cheapest of these choices is
taken. It costs at most twice the best choice, and at most that with parts cut to size and one part more (J. Csirik,
J. Frenk, M. Labbe, S. Zhang: Heuristics for the 0-1 min-knapsack problem, Acta Cybernetica 10, 1991; that a component's
parts go in order changes nothing in their argument). Blocks being small, the second bound is the one that counts;
with components that only come and go whole, on a device that shares the host's memory, it is the first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import msgspec

Key = TypeVar("Key", bound=Hashable)


class Return(msgspec.Struct, frozen=True):
    """What bringing a component back takes: seconds for each byte, and the chance that it is wanted next."""

    seconds_per_byte: float
    chance: float

    @property
    def worth(self) -> float:
        """Expected seconds for each byte."""
        return self.seconds_per_byte * self.chance


class Item(msgspec.Struct, Generic[Key], frozen=True):
    """Something that could leave: bytes of its parts in the order in which they would, and its return."""

    key: Key
    parts: tuple[int, ...]
    back: Return


def leaving(items: Sequence[Item[Key]], wanted: int) -> dict[Key, int]:
    """How many parts of each item leave so that `wanted` bytes are freed; all of them where that is not enough.

    Args:
        items: least recently used first.
    """
    order = sorted((item for item in items if any(item.parts)), key=lambda item: item.back.worth)
    if wanted <= 0:
        return {}
    if sum(sum(item.parts) for item in order) <= wanted:
        return {item.key: len(item.parts) for item in order}
    best: list[int] = []
    least, gone, freed = float("inf"), [0] * len(order), 0
    for number, item in enumerate(order):
        for size in item.parts:
            gone[number] += 1
            if freed + size < wanted:
                freed += size
                continue
            tried = _without_superfluous(order, gone, freed + size - wanted)
            if (worth := _worth(order, tried)) < least:
                best, least = tried, worth
            gone[number] -= 1
            break  # what follows it could not leave without it
    return {item.key: count for item, count in zip(order, best, strict=True) if count}


def _without_superfluous(order: Sequence[Item[Key]], gone: Sequence[int], spare: int) -> list[int]:
    """A choice without parts that it can do without: what is worth most stays first."""
    kept = list(gone)
    for number in range(len(order) - 1, -1, -1):
        while kept[number] and order[number].parts[kept[number] - 1] <= spare:
            kept[number] -= 1
            spare -= order[number].parts[kept[number]]
    return kept


def _worth(order: Sequence[Item[Key]], gone: Sequence[int]) -> float:
    return sum(item.back.worth * sum(item.parts[:count]) for item, count in zip(order, gone, strict=True))
