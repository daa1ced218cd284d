"""Finds the best residency for one choice of formats: what each component keeps resident, exactly, block by block.

Three facts make the space small. Weights that run once per job cost the same loaded or streamed, so for a text encoder
only the bytes that it keeps between jobs count. A byte of a component that runs many times saves a transfer in every
pass, so it takes all that its own phase leaves it. And a byte kept through other phases costs nothing there but room.
So it is enough to try every kept size of all components but the largest, and to derive that one's placement. Tests
compare it with trying everything: equal where blocks are of one size; where a component has several, what is kept of
it may be one block short of the best mixture.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence

from core.planning.cost import Costs, Found, Kept, Machine, Shares, Stage
from core.planning.fronts import Front, Way, front_of, within
from core.planning.job import Next

# A component smaller than this share of the budget is kept whole or not at all.
_SMALL = 0.125
# Of a component with more ways than this, those are tried whose resident blocks are the largest ones: a finer choice
# would move less than a block's bytes.
_MOST = 100


Keep = dict[str, bool]
"""Components that must stay on the device between phases and jobs, or must not; the others are free."""


class Memory:
    """What the searches of one planning share, by the identity of demands that the caller keeps alive meanwhile."""

    def __init__(self) -> None:
        self.fronts: dict[int, Front] = {}
        self.choices: dict[int, list[tuple[Kept, float]]] = {}
        self.shares: Shares = {}


def search(
    stages: Sequence[Stage],
    machine: Machine,
    chances: Next,
    warm: dict[str, int],
    in_memory: frozenset[str],
    memory: Memory | None = None,
    ceiling: float = math.inf,
    keep: Keep | None = None,
) -> Found | None:
    """The placement with the fewest expected seconds; None where none fits or takes less than `ceiling`.

    `memory` is shared by searches on one machine whose stages differ only in which demands they hold.
    """
    return _Search(stages, machine, chances, warm, in_memory, memory, ceiling, keep).run()


class _Search:
    """One choice of formats.

    A component's cost depends on its own placement alone; only room ties components together.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        machine: Machine,
        chances: Next,
        warm: dict[str, int],
        in_memory: frozenset[str],
        memory: Memory | None = None,
        ceiling: float = math.inf,
        keep: Keep | None = None,
    ) -> None:
        self.stages, self.machine = stages, machine
        self.memory = Memory() if memory is None else memory
        self.costs = Costs(stages, machine, chances, warm, in_memory, self.memory.shares)
        self.runs, self.demands = self.costs.runs, self.costs.demands
        # the component whose placement is derived last: the largest of those that make the picture
        after = [demand for stage in stages if not stage.encodes for demand in stage.demands]
        self.derived = max(after, key=lambda demand: demand.bytes).name if after else ""
        self.enumerated = [name for name in self.runs if name != self.derived]
        self.often = {demand.name for stage in stages if stage.passes > 1 for demand in stage.demands}
        for demand in self.demands.values():
            if id(demand) not in self.memory.fronts:
                self.memory.fronts[id(demand)] = front_of(demand, machine.slots)
        self.known = {key: self.memory.fronts[id(demand)] for key, demand in self.demands.items()}
        self.fronts = {key: front.best for key, front in self.known.items()}
        self.ceiling = ceiling
        self.keep = keep or {}
        self.best: tuple[float, dict[tuple[int, str], Kept]] | None = None

    def run(self) -> Found | None:
        whole = self._whole()
        if whole is not None:
            return self.costs.found(whole)
        choices = [self._choices(name) for name in self.enumerated]
        least = [min(expected for _, expected in choice) for choice in choices]
        promising = []
        for index, (name, choice) in enumerate(zip(self.enumerated, choices, strict=True)):
            others = sum(least) - least[index]
            # what this choice would cost if it were the only other component on the device
            floors = [(pair, others + expected + self._floor(name, pair)) for pair, expected in choice]
            promising.append(sorted((entry for entry in floors if entry[1] < math.inf), key=lambda entry: entry[1]))
        for tried in itertools.product(*promising):
            if all(floor < self.ceiling for _, floor in tried):
                self._place({name: pair for name, (pair, _) in zip(self.enumerated, tried, strict=True)})
        return self.costs.found(self.best[1]) if self.best is not None else None

    def _floor(self, name: str, pair: Kept) -> float:
        """The least that the derived component costs beside one choice of another; infinite where it does not fit."""
        if not self.derived or name in self.often:
            return 0.0
        elsewhere = self.machine.budget
        placed: dict[int, Way] = {}
        for s, stage in enumerate(self.stages):
            room = self.machine.budget - stage.overhead
            room -= pair.way.need(self.machine.slots) if (s, name) in self.demands else pair.kept
            if (s, self.derived) not in self.demands:
                elsewhere = min(elsewhere, room)
                continue
            last = bisect_right(self.known[s, self.derived].needs, room) - 1
            if last < 0:
                return math.inf
            placed[s] = self.fronts[s, self.derived][last]
        if elsewhere < 0:
            return math.inf
        smallest = min(placed.values(), key=lambda way: way.resident)
        kept = within(self.known[next(iter(placed)), self.derived], smallest, elsewhere)
        return self.costs.share(self.derived, placed, kept).expected

    # -- what can be kept -------------------------------------------------------------------------------------------

    def _whole(self) -> dict[tuple[int, str], Kept] | None:
        """Everything resident and kept, where all of it fits together in every stage: nothing can be better."""
        total = {name: max(self.demands[s, name].bytes for s in runs) for name, runs in self.runs.items()}
        if any(stage.overhead + sum(total.values()) > self.machine.budget for stage in self.stages):
            return None
        if any(every[-1].streamed for every in self.fronts.values()) or not all(self.keep.values()):
            return None  # the person wants less on the device than would fit
        return {(s, name): Kept(every[-1], total[name]) for (s, name), every in self.fronts.items()}

    def _choices(self, name: str) -> list[tuple[Kept, float]]:
        """What to try of a component: how it runs and what of it is kept, with its expected seconds.

        Of one that runs once, whatever is kept is resident, and the rest passes through with the least need of room. Of
        one that runs often only the kept size counts: how it runs follows from the room. Small ones are kept whole or
        not at all.
        """
        s = self.runs[name][0]
        remembered = self.memory.choices.get(id(self.demands[s, name]))
        if remembered is not None:
            return remembered
        every, slots = self.known[s, name].every, self.machine.slots
        leanest = min(every, key=lambda way: way.need(slots))
        if len(every) > _MOST:
            every = [way for way in every if _largest_first(way.counts, every[-1].counts)]
        choices = {0: leanest}
        if every[-1].resident < self.machine.budget * _SMALL:
            choices[every[-1].resident] = every[-1]
        else:
            by_counts, full = {way.counts: way for way in every}, every[-1].counts
            for way in every:
                # more resident blocks need less room only where they are the last of their size, so that slots shrink
                larger = itertools.product(*({count, most} for count, most in zip(way.counts, full, strict=True)))
                runs = min((by_counts[c] for c in larger if c in by_counts), key=lambda w: w.need(slots))
                known = choices.get(way.resident)
                if known is None or runs.need(slots) < known.need(slots):
                    choices[way.resident] = runs
        if name in self.keep:
            whole = max(choices)
            choices = {whole: choices[whole]} if self.keep[name] else {0: choices[0]}
        result = []
        for kept, way in sorted(choices.items(), reverse=True):
            expected = 0.0
            if name not in self.often:
                expected = self.costs.share(name, dict.fromkeys(self.runs[name], way), kept).expected
            result.append((Kept(way, kept), expected))
        self.memory.choices[id(self.demands[s, name])] = result
        return result

    def _place(self, tried: dict[str, Kept]) -> None:
        """Note the best placement when the enumerated components keep so much, if it is the best so far."""
        rooms: list[int] = []
        placements: dict[tuple[int, str], Kept] = {}
        own: list[int] = []
        expected = 0.0
        for s, stage in enumerate(self.stages):
            running = [demand.name for demand in stage.demands]
            room = self.machine.budget - stage.overhead
            for name, pair in tried.items():
                if name not in running:
                    room -= pair.kept
            slot = 0
            for name in running:
                if name == self.derived:
                    own.append(s)
                    continue
                pair = tried[name]
                if name in self.often:
                    way = self._roomiest(s, name, room)
                    if way is None or way.resident < pair.kept:
                        return
                    pair = Kept(way, pair.kept)
                placements[s, name] = pair
                room -= pair.way.resident
                slot = max(slot, pair.way.slot)
            room -= slot * self.machine.slots
            if room < 0:
                return
            rooms.append(room)
        for name in self.enumerated:
            placed = {s: placements[s, name].way for s in self.runs[name]}
            expected += self.costs.share(name, placed, tried[name].kept).expected
        if not own:
            self._note(expected, placements)
        else:
            self._derive(expected, placements, rooms, own)

    def _note(self, expected: float, placements: dict[tuple[int, str], Kept]) -> None:
        if expected < self.ceiling - 1e-12:
            self.best, self.ceiling = (expected, placements), expected

    def _roomiest(self, s: int, name: str, room: int) -> Way | None:
        """The best way of what runs often: all that fits, up to where streaming hides behind its compute."""
        index = bisect_right(self.known[s, name].needs, room) - 1
        return self.fronts[s, name][min(index, self._bound(s, name))] if index >= 0 else None

    def _bound(self, s: int, name: str) -> int:
        """The first way of the front whose streaming hides behind its compute."""
        free = self.machine.link * self.demands[s, name].seconds
        every = self.fronts[s, name]
        return next((i for i, way in enumerate(every) if way.streamed <= free), len(every) - 1)

    def _derive(
        self, expected: float, placements: dict[tuple[int, str], Kept], rooms: list[int], own: list[int]
    ) -> None:
        """Place the last component in what the others leave."""
        name = self.derived
        elsewhere = min((room for s, room in enumerate(rooms) if s not in own), default=self.machine.budget)
        chosen: list[Way] = []
        for s in own:
            # all that fits: what is resident crosses the link in the first pass either way, and then never again
            last = bisect_right(self.known[s, name].needs, rooms[s]) - 1
            if last < 0:
                return
            chosen.append(self.fronts[s, name][last])
        kept = within(self.known[own[0], name], min(chosen, key=lambda way: way.resident), elsewhere)
        if name in self.keep:
            if self.keep[name] and kept < min(way.resident for way in chosen):
                return
            kept = kept if self.keep[name] else 0
        total = expected + self.costs.share(name, dict(zip(own, chosen, strict=True)), kept).expected
        if total < self.ceiling:
            placed = {(s, name): Kept(way, kept) for s, way in zip(own, chosen, strict=True)}
            self._note(total, placements | placed)


def _largest_first(counts: tuple[int, ...], full: tuple[int, ...]) -> bool:
    """Whether no smaller block is resident while a larger one is not; sizes fall."""
    partial = next((i for i, (count, most) in enumerate(zip(counts, full, strict=True)) if count < most), len(full))
    return not any(counts[partial + 1 :])
