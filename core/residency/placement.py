"""Which blocks of a network are resident: by a plan's counts, or as many as fit; spread evenly either way."""

from __future__ import annotations

from collections.abc import Sequence

from core.planning.demand import Blocks, Demand, grouped
from core.planning.fronts import Way, front_of
from core.planning.passes import streamed_positions
from core.residency.slabs import Division


def resident_of(division: Division, counts: Sequence[int]) -> set[int] | None:
    """The blocks that a plan's counts (by falling size) keep resident; None where it knew blocks of other sizes."""
    groups, place = _groups(division)
    if len(counts) != len(groups) or any(count > group.count for count, group in zip(counts, groups, strict=True)):
        return None
    away = streamed_positions(place, counts)
    return {number for number, streamed in enumerate(away) if not streamed}


def as_many_as_fit(division: Division, budget: int, slots: int) -> set[int] | None:
    """The blocks that stay when weights and slots may take `budget` bytes; None where not even one way fits.

    The least bytes are streamed that are possible under the budget.
    """
    groups, place = _groups(division)
    fits = [way for way in _ways(division, groups, slots) if way.need(slots) <= budget]
    if not fits:
        return None
    away = streamed_positions(place, fits[-1].counts)
    return {number for number, streamed in enumerate(away) if not streamed}


def smallest_bytes(division: Division, slots: int) -> int:
    """The least device memory that weights and slots can do with."""
    return _ways(division, _groups(division)[0], slots)[0].need(slots)


def _ways(division: Division, groups: tuple[Blocks, ...], slots: int) -> list[Way]:
    """The ways to place it that no other beats, by rising need."""
    demand = Demand(
        name="",
        format="",
        loss=0.0,
        blocks=groups,
        rest_bytes=division.rest.size,
        bytes=division.size,
        folded_bytes=0,
        seconds=0.0,
        scratch_bytes=0,
        activation_bytes=0,
        streams=True,
    )
    return front_of(demand, slots).best


def _groups(division: Division) -> tuple[tuple[Blocks, ...], list[int]]:
    """(blocks of about one size by falling size, the index of its group for each block)."""
    sizes = {slab.name: slab.size for _, slab in division.blocks}
    groups = grouped(sizes, dict.fromkeys(sizes, 1))
    place = {name: index for index, group in enumerate(groups) for name in group.kinds}
    return groups, [place[slab.name] for _, slab in division.blocks]
