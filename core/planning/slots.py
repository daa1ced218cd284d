"""How many slots a streamed component takes: two, or three where the third is worth the block that it costs."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from core.planning.cost import Machine, pass_seconds
from core.planning.demand import Demand
from core.planning.fronts import Way
from core.planning.passes import MOST_SLOTS, steady_seconds, streamed_positions

_WORTH = 0.01  # what a third slot must save at least, as a share of a pass


class Settled(NamedTuple):
    """A way to place a component, with how many slots, and seconds of one of its passes."""

    way: Way
    slots: int
    seconds: float


def settled(demand: Demand, way: Way, machine: Machine, room: int, *, free: bool) -> Settled:
    """The placement that a streamer does best with.

    Two slots stall when blocks differ in size or when copies and kernels take about as long; a third one helps, and may
    cost less than it brings even if a resident block must make room for it.

    Args:
        way: what the search found for `machine.slots`.
        room: bytes that are left of the budget.
        free: whether there may be another number of slots.
    """
    found = Settled(way, machine.slots, seconds_of(demand, way, machine, machine.slots))
    if not free or not way.streamed or machine.slots >= MOST_SLOTS:
        return found
    other = way if room >= way.slot else _one_fewer(demand, way)
    if other is None or other.need(MOST_SLOTS) > way.need(machine.slots) + room:
        return found
    seconds = seconds_of(demand, other, machine, MOST_SLOTS)
    return Settled(other, MOST_SLOTS, seconds) if seconds < found.seconds * (1 - _WORTH) else found


def computing(demand: Demand, factor: float) -> Demand:
    """The demand of a pass that computes so many times as long."""
    if factor == 1.0:
        return demand
    sequence = tuple([(index, seconds * factor) for index, seconds in demand.sequence])
    return msgspec.structs.replace(demand, seconds=demand.seconds * factor, sequence=sequence)


def seconds_of(demand: Demand, way: Way, machine: Machine, slots: int) -> float:
    """One pass: what the bytes and the kernels need, and what an ideal streamer with so many slots needs."""
    link = machine.link_of(demand.name, way.streamed)
    least = pass_seconds(demand.seconds, way.streamed, link, machine.contention)
    if not way.streamed or not demand.sequence:
        return least
    place = [index for index, _ in demand.sequence]
    away = streamed_positions(place, way.counts)
    copies = [demand.blocks[index].bytes / link if gone else 0.0 for index, gone in zip(place, away, strict=True)]
    kernels = [seconds for _, seconds in demand.sequence]
    return max(least, steady_seconds(copies, kernels, slots, max(0.0, demand.seconds - sum(kernels))))


def _one_fewer(demand: Demand, way: Way) -> Way | None:
    """The way with one resident block of the largest streamed size less."""
    for index, (blocks, count) in enumerate(zip(demand.blocks, way.counts, strict=True)):
        if blocks.bytes == way.slot and count:
            counts = (*way.counts[:index], count - 1, *way.counts[index + 1 :])
            return Way(counts, way.resident - blocks.bytes, way.streamed + blocks.bytes, way.slot)
    return None
