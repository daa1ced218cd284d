"""The ways to place one component: how many blocks of each size are resident, and the front of those worth trying."""

from __future__ import annotations

from bisect import bisect_right
from operator import le

import msgspec

from core.planning.demand import Demand

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


def ways(demand: Demand, most: int = _MOST) -> list[Way]:
    """Ways to place a component, by rising resident bytes; the last has everything resident.

    All of them where they are not more than `most`, else those whose resident blocks are the largest ones. A component
    that does not stream has only one; so has one of which is given how many blocks are resident: the largest are.
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
    if total > most:
        return [_way(demand, counts) for counts in _chain(full)]
    # sizes fall, so a slot is as large as the first size of which not all is resident
    grown: list[tuple[int, tuple[int, ...], int]] = [(demand.rest_bytes, (), 0)]
    for part in demand.blocks:
        size, count = part.bytes, part.count
        grown = [
            (resident + number * size, (*counts, number), slot or (size if number < count else 0))
            for resident, counts, slot in grown
            for number in range(count + 1)
        ]
    return [Way(counts, resident, demand.bytes - resident, slot) for resident, counts, slot in sorted(grown)]


class Front(msgspec.Struct, frozen=True):
    """All ways of a component and, of them, those that no other beats in both bytes needed and bytes streamed.

    `every` is by rising resident bytes (`sizes`), `best` by rising need (`needs`), both for bisection.
    """

    every: list[Way]
    best: list[Way]
    sizes: list[int]
    needs: list[int]

    def roomiest(self, room: int, most: int | None = None) -> Way | None:
        """The way with the most resident bytes, up to `most`, that runs in `room`; None where none does."""
        index = bisect_right(self.needs, room) - 1
        if most is not None:
            index = min(index, bisect_right(self.best, most, key=lambda way: way.resident) - 1)
        return self.best[index] if index >= 0 else None


def front_of(demand: Demand, slots: int) -> Front:
    """The front of a component for a number of slots."""
    every = ways(demand)
    best: list[Way] = []
    needs: list[int] = []
    for need, streamed, index in sorted((way.need(slots), way.streamed, index) for index, way in enumerate(every)):
        if not best or streamed < best[-1].streamed:
            best.append(every[index])
            needs.append(need)
    return Front(every, best, [way.resident for way in every], needs)


def within(front: Front, outer: Way, room: int) -> int:
    """The most bytes of a placement that can stay in `room` when its own phase is over.

    The weights outside of blocks and some of its blocks, exact for every number of blocks of each size; or nothing.
    """
    if outer.resident <= room:
        return outer.resident
    for index in range(bisect_right(front.sizes, room) - 1, -1, -1):
        way = front.every[index]
        if all(map(le, way.counts, outer.counts)):
            return way.resident
    return 0


def containing(every: list[Way], slots: int) -> list[Way]:
    """For each way the one that needs least room while it runs, of those in which the same blocks are resident, too.

    More resident blocks need less room only where they are the last of their size, so that slots shrink.
    """
    by_counts, full = {way.counts: way for way in every}, every[-1].counts
    result = []
    for way in every:
        larger = [by_counts.get((*full[:size], *way.counts[size:])) for size in range(1, len(full) + 1)]
        result.append(min((way, *(other for other in larger if other is not None)), key=lambda each: each.need(slots)))
    return result


def _way(demand: Demand, counts: tuple[int, ...]) -> Way:
    resident, slot = demand.rest_bytes, 0
    for part, count in zip(demand.blocks, counts, strict=True):
        resident += part.bytes * count
        if count < part.count:
            slot = max(slot, part.bytes)
    return Way(counts, resident, demand.bytes - resident, slot)


def _chain(full: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Counts that grow by one block at a time, the largest sizes first."""
    grown = [tuple(0 for _ in full)]
    for size, count in enumerate(full):
        grown += [(*full[:size], number, *(0 for _ in full[size + 1 :])) for number in range(1, count + 1)]
    return grown
