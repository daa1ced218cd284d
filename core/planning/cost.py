"""What a placement costs: seconds of this job and of the next, component by component.

A component's cost depends on its own placement alone; only room ties components together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from core.planning.demand import Demand
from core.planning.fronts import Way
from core.planning.job import Next

Work = tuple[tuple[int, float], ...]
"""(how many passes, how many times a component's seconds each of them computes), in the order in which they run."""


Hosted = tuple[tuple[str, int], ...]
"""Bytes of components that stay in host memory, where it does not take all of them."""


class Stage(msgspec.Struct, frozen=True):
    """One phase for the search: the components that run, how many passes, and bytes that are neither weights nor slots.

    `encodes` says that it is not needed when the text's encoding is known; `skipped` that this is so in this job.
    `once_bytes` pass through once for every new text (folded modulation).

    `work` says how much jobs that share the passes compute where a pass is not one of this job's calls: (how many
    passes, how many times the components' seconds in each of them) in their order; `next_work` is the next prompt's,
    which is made alone. `lockstep` counts the calls in a pass that has most of them (core.planning.lockstep).
    """

    demands: tuple[Demand, ...]
    passes: int
    overhead: int
    encodes: bool
    skipped: bool
    once_bytes: int = 0
    lockstep: int = 1
    work: Work = ()
    next_work: Work = ()

    def rounds(self) -> Work:
        """This job's passes as (how many, how often the components' seconds in each)."""
        return self.work or ((self.passes, 1.0),)

    def next_rounds(self) -> Work:
        """The next prompt's."""
        return self.next_work or self.rounds()


class Machine(msgspec.Struct, frozen=True):
    """Rates in bytes per second, and what the device has room for.

    `link` is from host memory, `cold` for what is not there yet, `again` for what the next prompt needs once more.
    `overlap` says that weights may arrive while the first pass already computes, as a streamer brings them. What is not
    `hosted` comes from the `disk` (core.planning.hosting).
    """

    budget: int
    link: float
    cold: float
    again: float
    contention: float
    slots: int
    overlap: bool = True
    hosted: Hosted = ()
    disk: float = math.inf

    def link_of(self, name: str, size: int) -> float:
        """The rate at which so many bytes of a component come in every pass."""
        return self._rate(name, size, self.link)

    def again_of(self, name: str, size: int) -> float:
        """The rate at which so many bytes of a component come again."""
        return self._rate(name, size, self.again)

    def _rate(self, name: str, size: int, link: float) -> float:
        """That of bytes of which some are in host memory, and the others are read from the disk before they come."""
        if not self.hosted:
            return link
        hosted = next((some for one, some in self.hosted if one == name), size)
        if size <= hosted:
            return link
        return size / (hosted / link + (size - hosted) / min(link, self.disk))


class Kept(msgspec.Struct, frozen=True):
    """One component's placement in a stage and the bytes of it that stay afterwards."""

    way: Way
    kept: int


class Share(msgspec.Struct, frozen=True):
    """What one placed component adds: expected seconds, those of this job, of the next, and loads by its stages."""

    expected: float
    now: float
    text: float
    seed: float
    loads: tuple[tuple[int, float, float], ...]


class Found(msgspec.Struct, frozen=True):
    """The best placement: (stage, component) to placement, and what it costs.

    `seconds` is this job, `next_text` one with other words, `next_seed` one with the same words. `loads` has for each
    stage the seconds that its first pass takes longer than the others because weights arrive, in this job and in the
    next.
    """

    placements: dict[tuple[int, str], Kept]
    loads: tuple[tuple[float, float], ...]
    expected: float
    seconds: float
    next_text: float
    next_seed: float


def pass_seconds(compute: float, streamed: int, link: float, contention: float) -> float:
    """One pass that computes for `compute` seconds while `streamed` bytes cross the link: max(C', S/B).

    C' = C * (1 + a * share of the time in which is copied); copies and kernels share the device's memory.
    """
    if not streamed:
        return compute
    copying = streamed / link
    share = min(1.0, copying / compute) if compute > 0 else 1.0
    return max(compute * (1 + contention * share), copying)


Shares = dict[tuple[int, int, tuple[int, ...]], Share]


class Costs:
    """Costs of the components of one choice of formats. `shares` remembers them, by the identity of demands."""

    def __init__(
        self,
        stages: Sequence[Stage],
        machine: Machine,
        chances: Next,
        warm: dict[str, int],
        in_memory: frozenset[str],
        shares: Shares,
    ) -> None:
        self.stages, self.machine, self.chances, self.warm, self.in_memory = stages, machine, chances, warm, in_memory
        self.first = next((s for s, stage in enumerate(stages) if not stage.skipped), 0)
        self.shares = shares
        self.rows: dict[int, list[_Alike]] = {}  # by identity of demands
        self.runs: dict[str, list[int]] = {}
        self.demands: dict[tuple[int, str], Demand] = {}
        for s, stage in enumerate(stages):
            for demand in stage.demands:
                self.runs.setdefault(demand.name, []).append(s)
                self.demands[s, demand.name] = demand

    def found(self, placements: dict[tuple[int, str], Kept]) -> Found:
        """The account of a placement of every component."""
        shares = []
        for name, runs in self.runs.items():
            placed = {s: placements[s, name].way for s in runs}
            shares.append(self.share(name, placed, placements[runs[0], name].kept))
        loads = [[0.0, 0.0] for _ in self.stages]
        for share in shares:
            for s, load, again in share.loads:
                loads[s][0] += load
                loads[s][1] += again
        return Found(
            placements,
            tuple((load, again) for load, again in loads),
            sum(share.expected for share in shares),
            sum(share.now for share in shares),
            sum(share.text for share in shares),
            sum(share.seed for share in shares),
        )

    def share(self, name: str, placed: dict[int, Way], kept: int) -> Share:
        """What a component adds to the seconds, by its way in each of its stages and what is kept of it."""
        demand = self.demands[self.runs[name][0], name]
        key = (id(demand), kept, tuple([way.resident for way in placed.values()]))
        known = self.shares.get(key)
        if known is None:
            known = self.shares[key] = self._share(name, placed, kept)
        return known

    def _share(self, name: str, placed: dict[int, Way], kept: int) -> Share:
        machine = self.machine
        now = text = seed = 0.0
        loads = []
        before, before_stage, ran = 0, -2, False
        for s, way in placed.items():
            stage, demand = self.stages[s], self.demands[s, name]
            there = before if before_stage == s - 1 else 0  # resident in the stage before
            link = machine.link_of(name, way.streamed)
            begins, one, rest = self._passes(demand.seconds, way.streamed, link, stage.rounds())
            load = 0.0
            if not stage.skipped:
                # what is warm is used, even where it must go afterwards; an earlier stage may have needed its room
                had = max(there, self.warm.get(name, 0) if s == self.first else min(self.warm.get(name, 0), kept))
                had = max(had, kept if ran else 0)
                ran = True
                missing = max(0, demand.bytes - had)
                crosses = missing + stage.once_bytes
                cold = machine.again_of(name, crosses) if name in self.in_memory else machine.cold
                first = self.first_pass(demand, begins, missing, stage.once_bytes, cold)
                load = first - one
                now += first + rest
            if stage.next_work:
                begins, one, rest = self._passes(demand.seconds, way.streamed, link, stage.next_work)
            missing = max(0, way.resident - max(kept, there)) + way.streamed
            again = machine.again_of(name, missing + stage.once_bytes)
            later = self.first_pass(demand, begins, missing, stage.once_bytes, again)
            text += later + rest
            if not stage.encodes:
                seed += later + rest  # what is folded is computed anew
            loads.append((s, load, later - one))
            before, before_stage = way.resident, s
        expected = now + self.chances.text * text + self.chances.seed * seed
        return Share(expected, now, text, seed, tuple(loads))

    def _passes(self, compute: float, streamed: int, link: float, work: Work) -> tuple[float, float, float]:
        """Seconds that the first pass computes, those that it takes as placed, and those of all passes after it."""
        begins = one = rest = 0.0
        for number, (count, factor) in enumerate(work):
            each = pass_seconds(compute * factor, streamed, link, self.machine.contention)
            if not number:
                begins, one = compute * factor, each
            rest += (count if number else count - 1) * each
        return begins, one, rest

    def first_pass(self, demand: Demand, compute: float, missing: int, once: int, rate: float) -> float:
        """Seconds of a stage's first pass, in which all that is missing arrives, too, and `once` passes through.

        Nothing runs before what lies outside of blocks is there; then each block waits for its own bytes, and the last
        ones still compute when all have come.
        """
        machine = self.machine
        if not machine.overlap:
            return (missing + once) / rate + compute
        if not missing and not once:
            return compute
        had = demand.bytes - missing
        before = max(0, demand.rest_bytes - had)
        least = before / rate + pass_seconds(compute, missing - before + once, rate, machine.contention)
        factor = compute / demand.seconds if demand.seconds else 1.0
        return max(least, *[come / rate + left * factor for come, left in self._waits(demand, had, once)])

    def _waits(self, demand: Demand, had: int, once: int) -> Iterator[tuple[int, float]]:
        """(bytes that arrive before a block runs, seconds that are computed from there on), where they matter.

        Between the first block that is missing and the last of blocks that are alike both change evenly, so that their
        ends are enough.
        """
        known = self.rows.get(id(demand))
        if known is None:
            known = self.rows[id(demand)] = _alike(demand)
        yield max(0, demand.rest_bytes - had), demand.seconds
        for row in known:
            first = max(0, (had - row.begins) // row.bytes) if row.bytes else 0
            for number in (first, row.blocks - 1):
                if first < row.blocks:
                    arrived = row.begins + (number + 1) * row.bytes - had
                    passed = row.passed + (number + 1) * row.folding if once else 0
                    yield max(0, arrived) + passed, row.left - number * row.seconds


class _Alike(NamedTuple):
    """Blocks alike in a row: bytes that come before the first one, of which `passed` are folded, and of each of them.

    `left` are the seconds of a pass from the first one on.
    """

    begins: int
    passed: int
    blocks: int
    bytes: int
    folding: int
    seconds: float
    left: float


def _alike(demand: Demand) -> list[_Alike]:
    """The blocks of a component in rows."""
    folding = demand.folding or (0,) * len(demand.sequence)
    begins, passed, left = demand.rest_bytes, 0, demand.seconds
    rows = []
    for ((index, seconds), each), group in itertools.groupby(zip(demand.sequence, folding, strict=True)):
        count, size = len(list(group)), demand.blocks[index].bytes
        rows.append(_Alike(begins, passed, count, size, each, seconds, left))
        begins, passed, left = begins + count * size, passed + count * each, left - count * seconds
    return rows
