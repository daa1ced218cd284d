"""Two components that run often, each alone in its own phase: what each keeps through the other's (Wan's experts).

What one keeps does two things: it need not be loaded again, and the other has so much less room while it runs. Both
depend on nothing else, so each kept size has a price, and the best pair is found by one walk over the sizes of one
beside the least price of the other up to where both no longer fit.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import msgspec

from core.planning.cost import Costs
from core.planning.fronts import Front, Way, containing, ways


class Expert(msgspec.Struct, frozen=True):
    """A component's seconds, as those that follow from what is kept of it and those from the room in which it runs.

    `sizes` (bytes kept) and `needs` (room in which it can run meanwhile) rise, and `loads` are their seconds. `rooms`
    rise, too, and `passes` are the seconds that follow from having at least so much room.
    """

    sizes: list[int]
    needs: list[int]
    loads: list[float]
    rooms: list[float]
    passes: list[float]


def expert_of(name: str, costs: Costs, front: Front, keep: bool | None) -> Expert:
    """A component that runs in one stage only. `keep` says that what is resident must stay, or that nothing may."""
    s = costs.runs[name][0]

    def seconds(way: Way, kept: int) -> float:
        return costs.share(name, {s: way}, kept).expected

    whole = front.every[-1]
    nothing = seconds(whole, 0)
    loads = {way.resident: seconds(whole, way.resident) - nothing for way in front.best}
    passes = [seconds(way, 0) for way in front.best]
    if keep:
        both = [loads[way.resident] + longer for way, longer in zip(front.best, passes, strict=True)]
        return Expert([way.resident for way in front.best], front.needs, both, [-math.inf], [0.0])
    sizes, needs = [0], [front.needs[0]]
    if keep is None:
        every = ways(costs.demands[s, name], 0)
        sizes += [way.resident for way in every]
        needs += [way.need(costs.machine.slots) for way in containing(every, costs.machine.slots)]
    return Expert(sizes, needs, [seconds(whole, size) - nothing for size in sizes], [*front.needs], passes)


def pair(one: Expert, other: Expert, rooms: tuple[int, int], most: int) -> tuple[float, int, int]:
    """Seconds and kept bytes of the best placement of two; infinite where they do not fit.

    Args:
        rooms: bytes that each may use while it runs, if the other keeps nothing.
        most: bytes that both together may keep.
    """
    prices, prices_of_other = _prices(one, other, rooms[1]), _prices(other, one, rooms[0])
    least: list[tuple[float, int]] = []
    for price, size in zip(prices_of_other, other.sizes, strict=False):
        least.append((price, size) if not least or price < least[-1][0] else least[-1])
    best = (math.inf, 0, 0)
    for price, size, need in zip(prices, one.sizes, one.needs, strict=False):
        room = min(most - size, rooms[0] - need)
        fits = min(bisect_right(other.sizes, room), bisect_right(other.needs, rooms[1] - size), len(least))
        if fits and price + least[fits - 1][0] < best[0]:
            best = (price + least[fits - 1][0], size, least[fits - 1][1])
    return best


def _prices(one: Expert, other: Expert, room: int) -> list[float]:
    """Seconds of keeping each size of one: its own loading, and the other's passes in what it leaves of `room`.

    As many sizes as leave the other room to run.
    """
    prices = []
    for size, load in zip(one.sizes, one.loads, strict=True):
        index = bisect_right(other.rooms, room - size) - 1
        if index < 0:
            break
        prices.append(load + other.passes[index])
    return prices
