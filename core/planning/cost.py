"""What a placement costs: seconds of this job and of the next, component by component.

A component's cost depends on its own placement alone; only room ties components together.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from core.planning.demand import Demand
from core.planning.fronts import Way
from core.planning.job import Next

Work = tuple[tuple[int, float], ...]
"""(how many passes, how many times a component's seconds each of them computes), in the order in which they run."""


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
    `overlap` says that weights may arrive while the first pass already computes, as a streamer brings them.
    """

    budget: int
    link: float
    cold: float
    again: float
    contention: float
    slots: int
    overlap: bool = True


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
        cold = machine.again if name in self.in_memory else machine.cold
        now = text = seed = 0.0
        loads = []
        before, before_stage = 0, -2
        for s, way in placed.items():
            stage, demand = self.stages[s], self.demands[s, name]
            there = before if before_stage == s - 1 else 0  # resident in the stage before
            begins, one, rest = self._passes(demand.seconds, way.streamed, stage.rounds())
            load = 0.0
            if not stage.skipped:
                # what is warm is used, even where it must go afterwards; an earlier stage may have needed its room
                had = max(there, self.warm.get(name, 0) if s == self.first else min(self.warm.get(name, 0), kept))
                missing = max(0, demand.bytes - had) + stage.once_bytes
                first = self.first_pass(begins, missing, cold)
                load = first - one
                now += first + rest
            if stage.next_work:
                begins, one, rest = self._passes(demand.seconds, way.streamed, stage.next_work)
            crosses = max(0, way.resident - max(kept, there)) + way.streamed
            later = self.first_pass(begins, crosses + stage.once_bytes, machine.again)
            text += later + rest
            if not stage.encodes:
                seed += later + rest  # what is folded is computed anew
            loads.append((s, load, later - one))
            before, before_stage = way.resident, s
        expected = now + self.chances.text * text + self.chances.seed * seed
        return Share(expected, now, text, seed, tuple(loads))

    def _passes(self, compute: float, streamed: int, work: Work) -> tuple[float, float, float]:
        """Seconds that the first pass computes, those that it takes as placed, and those of all passes after it."""
        machine = self.machine
        begins = one = rest = 0.0
        for number, (count, factor) in enumerate(work):
            each = pass_seconds(compute * factor, streamed, machine.link, machine.contention)
            if not number:
                begins, one = compute * factor, each
            rest += (count if number else count - 1) * each
        return begins, one, rest

    def first_pass(self, compute: float, missing: int, rate: float) -> float:
        """Seconds of a stage's first pass, in which all that is missing arrives, too."""
        if self.machine.overlap:
            return pass_seconds(compute, missing, rate, self.machine.contention)
        return missing / rate + compute
