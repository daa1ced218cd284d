"""What components can offer to the others: so many bytes kept, so much room left, so many seconds.

A component's choices become offers, those of components that run together are combined, and offers of components that
never run together are merged one after another: a merged offer is an offer again. What another one beats in bytes, room
and seconds alike is dropped at every step, which keeps lists short without losing the best (dynamic programming over
the budget).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import le, sub
from typing import Any, TypeVar

import msgspec

from core.planning.cost import Costs, Kept
from core.planning.fronts import Way, containing, ways

# A component smaller than this share of the budget is kept whole or not at all.
_SMALL = 0.125
# Of a component with more ways than this, those are tried whose resident blocks are the largest ones: a finer choice
# would move less than a block's bytes.
MOST = 100
# So many steps between nothing and everything resident are tried of one that runs often beside others that do. Assumed
# to be fine enough; no model that ships has such components.
_FEW = 12

Keep = dict[str, bool]
"""Components that must stay on the device between phases and jobs, or must not; the others are free."""

_Row = TypeVar("_Row", bound=tuple[Any, ...])

Picks = tuple[tuple[tuple[int, str], Kept], ...]
"""(stage, component) and its placement."""


class Offer(msgspec.Struct, frozen=True):
    """Components placed: `kept` bytes of them stay through all phases, and all others may keep `room` bytes meanwhile.

    `seconds` are what these components add to the expected ones.
    """

    kept: int
    room: int
    seconds: float
    picks: Picks


def worth_trying(offers: Iterable[Offer]) -> list[Offer]:
    """Offers by rising kept bytes, without those that another one equals or beats in bytes, room and seconds."""
    every = list(offers)
    return [every[row[3]] for row in _unbeaten([(one.kept, one.seconds, one.room, n) for n, one in enumerate(every)])]


def merged(some: Sequence[Offer], others: Sequence[Offer]) -> list[Offer]:
    """The offers of components that never run together with each other."""
    rows = [
        (one.kept + other.kept, one.seconds + other.seconds, room, n, m)
        for n, one in enumerate(some)
        for m, other in enumerate(others)
        if (room := min(one.room - other.kept, other.room - one.kept)) >= 0
    ]
    return [
        Offer(kept, room, seconds, some[n].picks + others[m].picks) for kept, seconds, room, n, m in _unbeaten(rows)
    ]


def _unbeaten(rows: list[_Row]) -> list[_Row]:
    """Rows of (kept bytes, seconds, room, ...) by rising bytes that no other one equals or beats in all three."""
    result: list[_Row] = []
    rooms: list[int] = []  # of the rows so far no other of which leaves more room in fewer seconds: both rise
    least: list[float] = []
    rows.sort()
    for row in rows:
        seconds, room = row[1], row[2]
        at = bisect_left(rooms, room)
        if at < len(rooms) and least[at] <= seconds:
            continue
        after = at + (at < len(rooms) and rooms[at] == room)
        while at and least[at - 1] >= seconds:
            at -= 1
        rooms[at:after], least[at:after] = [room], [seconds]
        result.append(row)
    return result


def together(names: Iterable[str], runs: dict[str, list[int]]) -> list[list[str]]:
    """Components in groups: those that run in a stage together, directly or through a third one."""
    groups: list[tuple[set[int], list[str]]] = []
    for name in names:
        stages, members = set(runs[name]), [name]
        for group in [group for group in groups if group[0] & stages]:
            groups.remove(group)
            stages, members = stages | group[0], group[1] + members
        groups.append((stages, members))
    return [members for _, members in groups]


def offers_of(names: Sequence[str], costs: Costs, keep: Keep) -> list[Offer]:
    """The offers of components that run in stages together, and with no others."""
    runs, slots = costs.runs, costs.machine.slots
    first, *later = sorted({s for name in names for s in runs[name]})
    rooms = {s: costs.machine.budget - costs.stages[s].overhead for s in (first, *later)}
    # offers whose room is that in the first stage and lacks the slots yet; by the largest slot of each stage, which
    # its components share, and the room in the other stages
    none = tuple(0 for _ in rooms)
    partial = {(none, tuple(rooms[s] for s in later)): [Offer(0, rooms[first], 0.0, ())]}
    for name in sorted(names, key=lambda name: -costs.demands[runs[name][0], name].bytes):
        partial = {key: worth_trying(offers) for key, offers in partial.items()}
        grown: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Offer]] = {}
        for kept, placed in _choices(name, costs, keep):
            seconds = costs.share(name, placed, kept).expected
            picks = tuple([((s, name), Kept(way, kept)) for s, way in placed.items()])
            held, *holds = [placed[s].resident if s in placed else kept for s in rooms]
            own = [placed[s].slot if s in placed else 0 for s in rooms]
            for (largest, others), offers in partial.items():
                largest, others = tuple(map(max, largest, own)), tuple(map(sub, others, holds))
                if any(room < slots * slot for room, slot in zip(others, largest[1:], strict=True)):
                    continue
                grown.setdefault((largest, others), []).extend(
                    Offer(offer.kept + kept, room, offer.seconds + seconds, offer.picks + picks)
                    for offer in offers
                    if (room := offer.room - held) >= slots * largest[0]
                )
        partial = grown
    return worth_trying(
        Offer(
            offer.kept,
            min(room - slots * slot for room, slot in zip((offer.room, *others), largest, strict=True)),
            offer.seconds,
            offer.picks,
        )
        for (largest, others), offers in partial.items()
        for offer in offers
    )


def _choices(name: str, costs: Costs, keep: Keep) -> Iterator[tuple[int, dict[int, Way]]]:
    """What to try of a component: bytes kept, and how it runs in each of its stages.

    Of one that runs once, whatever is kept is resident, and the rest passes through with the least need of room: its
    own, or that beside others with slots as large. One that runs often gains from blocks that are only resident while
    it runs. Small ones are kept whole or not at all.
    """
    runs, slots = costs.runs[name], costs.machine.slots
    every = [ways(costs.demands[s, name], MOST) for s in runs]
    leanest = [containing(some, slots) for some in every]
    longest = max(every, key=len)  # another stage may allow but one way

    def placed(table: list[list[Way]], index: int) -> dict[int, Way]:
        return {s: some[index if len(some) == len(longest) else -1] for s, some in zip(runs, table, strict=True)}

    room = costs.machine.budget - max(costs.stages[s].overhead for s in runs)
    fit = bisect_right(longest, room, key=lambda way: way.resident)
    sizes: Iterable[int] = range(fit)
    again = any(costs.stages[s].passes > 1 or s + 1 in runs for s in runs)
    if longest[-1].resident < costs.machine.budget * _SMALL or keep.get(name):
        sizes = (len(longest) - 1,)
    elif again and fit:
        sizes = sorted({round((fit - 1) * number / _FEW) for number in range(_FEW + 1)})
    if not keep.get(name):
        yield 0, {s: min(some, key=lambda way: way.need(slots)) for s, some in zip(runs, leanest, strict=True)}
        yield from ((0, placed(every, index)) for index in (sizes if again else (0,)))
    if keep.get(name) is False:
        return
    for size in sizes:
        kept, larger = longest[size], sizes if again else (size,)
        each = [placed(leanest, size), *(placed(every, index) for index in larger)]
        yield from ((kept.resident, way) for n, way in enumerate(each) if way not in each[:n] and _holds(way, kept))


def _holds(placed: dict[int, Way], kept: Way) -> bool:
    """Whether the blocks of `kept` are resident in every stage."""
    return all(all(map(le, kept.counts, way.counts)) for way in placed.values())
