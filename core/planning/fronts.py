"""The ways to place one component: how many blocks of each size are resident, and the front of those worth trying."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable

import msgspec

from core.planning.demand import Blocks, Demand

# Beyond so many combinations of counts the largest blocks are placed first, one by one (a UNet of a dozen sizes).
_MOST = 4096


class Way(msgspec.Struct, frozen=True):
    """Blocks of each size that are resident, and what follows: bytes that stay, are streamed, and of one slot."""

    counts: tuple[int, ...]
    resident: int
    streamed: int
    slot: int

    def need(self, slots: int) -> int:
        """Device bytes while the component runs with this many slots."""
        return self.resident + self.slot * slots


def ways(demand: Demand) -> list[Way]:
    """Every way to place a component, by rising resident bytes; the last has everything resident.

    A component that does not stream has only that one; where the number of resident blocks is given, the largest are.
    """
    full = tuple(part.count for part in demand.blocks)
    if not demand.streams:
        return [_way(demand, full)]
    if demand.resident_blocks is not None:
        chain = _chain(full)
        return [_way(demand, chain[min(demand.resident_blocks, len(chain) - 1)])]
    total = 1
    for count in full:
        total *= count + 1
    if total <= _MOST:
        every: Iterable[tuple[int, ...]] = itertools.product(*(range(count + 1) for count in full))
    else:
        every = _chain(full)
    return sorted((_way(demand, counts) for counts in every), key=lambda way: way.resident)


class Front(msgspec.Struct, frozen=True):
    """All ways of a component and, of them, those that no other beats in both bytes needed and bytes streamed.

    `every` is by rising resident bytes (`sizes`), `best` by rising need (`needs`), both for bisection.
    """

    every: list[Way]
    best: list[Way]
    sizes: list[int]
    needs: list[int]


def front_of(demand: Demand, slots: int) -> Front:
    """The front of a component for a number of slots."""
    every = ways(demand)
    best: list[Way] = []
    for way in sorted(every, key=lambda way: (way.need(slots), way.streamed)):
        if not best or way.streamed < best[-1].streamed:
            best.append(way)
    return Front(every, best, [way.resident for way in every], [way.need(slots) for way in best])


def within(front: Front, outer: Way, room: int) -> int:
    """The most bytes of a placement that can stay in `room` when its own phase is over.

    The weights outside of blocks and some of its blocks, exact for every number of blocks of each size; or nothing.
    """
    if outer.resident <= room:
        return outer.resident
    for index in range(bisect_right(front.sizes, room) - 1, -1, -1):
        way = front.every[index]
        if all(a <= b for a, b in zip(way.counts, outer.counts, strict=True)):
            return way.resident
    return 0


def _way(demand: Demand, counts: tuple[int, ...]) -> Way:
    pairs: list[tuple[Blocks, int]] = list(zip(demand.blocks, counts, strict=True))
    resident = demand.rest_bytes + sum(part.bytes * count for part, count in pairs)
    slot = max((part.bytes for part, count in pairs if count < part.count), default=0)
    return Way(counts, resident, demand.bytes - resident, slot)


def _chain(full: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Counts that grow by one block at a time, the largest sizes first."""
    grown = [tuple(0 for _ in full)]
    for size, count in enumerate(full):
        grown += [(*full[:size], number, *(0 for _ in full[size + 1 :])) for number in range(1, count + 1)]
    return grown
