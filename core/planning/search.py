"""Finds the best residency for one choice of formats: what each component keeps resident, exactly, block by block.

A component costs less the more of it is resident while it runs and the more of it is kept; and of the others it sees no
more than how many bytes they keep. So most components come as a list of offers (core.planning.offers): bytes kept, the
room that is left to others, seconds. What makes the picture, alone in its phase, is not tried but placed in what the
others leave: all that fits is resident, since it saves a transfer in every pass, and then stays as far as it can. Wan's
two experts are placed as a pair (core.planning.experts).

The offers are halved until one is left that nothing else can beat: all in a half cost at least what its fewest seconds
would with its fewest bytes and its most room. Tests compare the search with trying everything: equal where blocks are
of one size; where a component has several, what is kept of it may be one block short of the best mixture.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Sequence

from core.planning.cost import Costs, Found, Kept, Machine, Shares, Stage
from core.planning.experts import Expert, expert_of, pair
from core.planning.fronts import Front, Way, front_of, within
from core.planning.job import Next
from core.planning.offers import Keep, Offer, merged, offers_of, together


class Memory:
    """What the searches of one planning share, by the identity of stages and demands, which are kept alive for it."""

    def __init__(self, fronts: dict[int, Front] | None = None) -> None:
        """`fronts` may be shared by machines with as many slots."""
        self.fronts = {} if fronts is None else fronts
        self.experts: dict[int, Expert] = {}
        self.alone: dict[tuple[int, ...], float] = {}
        self.offers: dict[tuple[int, ...], list[Offer]] = {}
        self.shares: Shares = {}
        self.stages: list[Sequence[Stage]] = []

    def changed(self) -> Memory:
        """What still holds where stages hold the same demands as others, but not the same passes."""
        other = Memory(self.fronts)
        other.alone, other.offers, other.stages = self.alone, self.offers, self.stages
        return other


class Search:
    """The search for one choice of formats.

    `memory` is shared by searches on one machine whose stages differ only in which demands they hold (see `changed`).
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        machine: Machine,
        chances: Next,
        warm: dict[str, int],
        in_memory: frozenset[str],
        memory: Memory | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.stages, self.machine, self.keep = stages, machine, keep or {}
        self.memory = Memory() if memory is None else memory
        self.memory.stages.append(stages)
        self.costs = Costs(stages, machine, chances, warm, in_memory, self.memory.shares)
        self.derived = self._derived()

    def run(self) -> Found | None:
        """The placement with the fewest expected seconds; None where none fits."""
        if self.whole is not None:
            return self.whole
        heap = [(self.bound, 0, len(self._offers))]
        while heap[0][0] < math.inf:
            _, begin, end = heapq.heappop(heap)
            if end - begin == 1:
                return self._found(self._offers[begin])
            middle = (begin + end) // 2
            heapq.heappush(heap, (self._least(begin, middle), begin, middle))
            heapq.heappush(heap, (self._least(middle, end), middle, end))
        return None

    @functools.cached_property
    def alone(self) -> float:
        """Expected seconds that no placement beats, soon known: those of every component alone on the device."""
        return sum([self._alone(name, runs) for name, runs in self.costs.runs.items()])

    @functools.cached_property
    def bound(self) -> float:
        """Expected seconds that no placement beats, nearer to the best; infinite where nothing fits."""
        if self.whole is not None:
            return self.whole.expected
        return self._least(0, len(self._offers)) if self._offers else math.inf

    @functools.cached_property
    def whole(self) -> Found | None:
        """Everything resident and kept, where all of it fits together in every stage: nothing can be better."""
        sizes = {name: max(self.costs.demands[s, name].bytes for s in runs) for name, runs in self.costs.runs.items()}
        if any(stage.overhead + sum(sizes.values()) > self.machine.budget for stage in self.stages):
            return None
        if not all(self.keep.values()):
            return None  # the person wants less on the device than would fit
        placed = {(s, name): self._front(s, name).every[-1] for s, name in self.costs.demands}
        if any(way.streamed for way in placed.values()):
            return None
        return self.costs.found({(s, name): Kept(way, sizes[name]) for (s, name), way in placed.items()})

    def _alone(self, name: str, runs: list[int]) -> float:
        parts = {s: self.costs.demands[s, name] for s in runs}
        key = tuple([id(self.stages[s]) for s in runs] + [id(part) for part in parts.values()])
        if key not in self.memory.alone:
            rooms = {s: self.machine.budget - self.stages[s].overhead for s in runs}
            held = {s: min(part.bytes, rooms[s]) for s, part in parts.items()}
            placed = {s: Way((), held[s], part.bytes - held[s], 0) for s, part in parts.items()}
            fits = all((part.rest_bytes if part.streams else part.bytes) <= rooms[s] for s, part in parts.items())
            kept = min(held.values())
            self.memory.alone[key] = self.costs.share(name, placed, kept).expected if fits else math.inf
        return self.memory.alone[key]

    # -- what is tried ----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _offers(self) -> list[Offer]:
        """Those of all components but the derived ones, by rising bytes."""
        names = [name for name in self.costs.runs if name not in self.derived]
        result = [Offer(0, self.machine.budget, 0.0, ())]
        key: tuple[int, ...] = ()
        for group in together(names, self.costs.runs):
            mine = tuple(id(self.stages[s]) for name in group for s in self.costs.runs[name])
            if mine not in self.memory.offers:
                self.memory.offers[mine] = offers_of(group, self.costs, self.keep)
            key += mine
            if key not in self.memory.offers:
                self.memory.offers[key] = merged(result, self.memory.offers[mine])
            result = self.memory.offers[key]
        return result

    def _least(self, begin: int, end: int) -> float:
        """Expected seconds that none of some offers beats; what one offer takes, if it is only one."""
        some = self._offers[begin:end]
        seconds = min([offer.seconds for offer in some])
        room = max([offer.room for offer in some])
        return seconds + self._rest(some[0].kept, room, exact=len(some) == 1)[0]

    def _found(self, offer: Offer) -> Found:
        placements = dict(offer.picks)
        _, stays = self._rest(offer.kept, offer.room, exact=True)
        for name, kept in stays.items():
            others = offer.kept + sum(stays.values()) - kept
            placed = self._placed(name, others, kept if self.keep.get(name) else None)
            assert placed is not None
            kept = within(self._first(name), _smallest(placed), kept)
            placements.update({(s, name): Kept(way, kept) for s, way in placed.items()})
        return self.costs.found(placements)

    # -- what is derived --------------------------------------------------------------------------------------------

    def _derived(self) -> list[str]:
        """What is placed in what the others leave, of components that make the picture alone in their phases.

        The largest one; and the largest other one that runs often, if both run in one phase only.
        """
        alone = [
            name
            for name, runs in self.costs.runs.items()
            if not any(self.stages[s].encodes or len(self.stages[s].demands) > 1 for s in runs)
        ]
        alone.sort(key=lambda name: -self.costs.demands[self.costs.runs[name][0], name].bytes)
        often = [
            name
            for name in alone[1:]
            if len(self.costs.runs[name]) == 1 and self.stages[self.costs.runs[name][0]].passes > 1
        ]
        both = alone and len(self.costs.runs[alone[0]]) == 1
        return alone[:1] + (often[:1] if both else [])

    def _rest(self, others: int, most: int, *, exact: bool) -> tuple[float, dict[str, int]]:
        """Seconds of the derived components, and what is kept of each, where the others keep so many bytes.

        Args:
            most: what all derived components together may keep.
            exact: else a bound that never falls with more `others` or less `most`, as where blocks of several sizes are
                kept that are not all resident.
        """
        if not self.derived:
            return 0.0, {}
        name = self.derived[0]
        if len(self.derived) == 1:
            placed = self._placed(name, others, most if self.keep.get(name) else None)
            if placed is None:
                return math.inf, {}
            kept, smallest = 0, _smallest(placed)
            if self.keep.get(name) is not False:
                outer = smallest if exact else self._first(name).every[-1]
                kept = within(self._first(name), outer, min(most, smallest.resident))
            return self.costs.share(name, placed, kept).expected, {name: kept}
        one, other = ((self.costs.runs[each][0], each) for each in self.derived)
        rooms = [self.machine.budget - self.stages[s].overhead - others for s, _ in (one, other)]
        seconds, kept, kept_of_other = pair(self._expert(*one), self._expert(*other), (rooms[0], rooms[1]), most)
        return seconds, {one[1]: kept, other[1]: kept_of_other}

    def _placed(self, name: str, others: int, most: int | None) -> dict[int, Way] | None:
        """All that fits in each stage: it crosses the link in the first pass either way, and then never again."""
        placed = {}
        for s in self.costs.runs[name]:
            way = self._front(s, name).roomiest(self.machine.budget - self.stages[s].overhead - others, most)
            if way is None:
                return None
            placed[s] = way
        return placed

    def _first(self, name: str) -> Front:
        return self._front(self.costs.runs[name][0], name)

    def _front(self, s: int, name: str) -> Front:
        demand = self.costs.demands[s, name]
        if id(demand) not in self.memory.fronts:
            self.memory.fronts[id(demand)] = front_of(demand, self.machine.slots)
        return self.memory.fronts[id(demand)]

    def _expert(self, s: int, name: str) -> Expert:
        key = id(self.costs.demands[s, name])
        if key not in self.memory.experts:
            self.memory.experts[key] = expert_of(name, self.costs, self._front(s, name), self.keep.get(name))
        return self.memory.experts[key]


def _smallest(placed: dict[int, Way]) -> Way:
    return min(placed.values(), key=lambda way: way.resident)
