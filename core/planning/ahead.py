"""Weights of later phases that are copied while a phase computes and the link has nothing else to do.

Decided when everything else is: only what is missing and resident in its own phase comes early, in the order of phases,
into room that is left, and only in phases that stream nothing. What that hides is taken off the later loading, for this
job and in the same way for the next prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from core.hardware.segments import segment_bytes
from core.planning.cost import Costs, Machine, Stage
from core.planning.decide import Candidate
from core.planning.demand import Demand
from core.planning.explain import seconds as in_seconds
from core.planning.group import texts_of
from core.planning.job import Job
from core.planning.options import UNFELT_SECONDS
from core.planning.passes import streamed_positions
from core.plans import PhasePlan, Placement
from core.sizes import in_words


class Ahead(msgspec.Struct, frozen=True):
    """Phases with what they bring ahead, the seconds that it saves, and the sentences about it.

    `now` are those of this job, `text` and `seed` those of the next prompt with other words and with the same ones.
    """

    phases: tuple[PhasePlan, ...]
    now: float
    text: float
    seed: float
    reasons: tuple[str, ...]


def slabs(demand: Demand, resident_blocks: Sequence[int], had: int) -> list[int]:
    """Bytes of the resident slabs that are missing where `had` bytes are there, in the order in which they are copied.

    What lies outside of blocks comes first, then blocks as they run.
    """
    missing = [demand.rest_bytes - had] if demand.rest_bytes > had else []
    had = max(0, had - demand.rest_bytes)
    place = [index for index, _ in demand.sequence]
    for index, gone in zip(place, streamed_positions(place, resident_blocks), strict=True):
        size = demand.blocks[index].bytes
        if gone:
            continue
        if had >= size:
            had -= size
        else:
            missing.append(size)
    return missing


def load_ahead(phases: Sequence[PhasePlan], chosen: Candidate, job: Job, machine: Machine) -> Ahead:
    """The phases with what they bring ahead."""
    warm = chosen.warm(job)
    now = _Timeline(phases, chosen.stages, machine, job, [stage.skipped for stage in chosen.stages], chosen, warm)
    text = _Timeline(phases, chosen.stages, machine, job, [False] * len(phases), chosen, None)
    seed = _Timeline(phases, chosen.stages, machine, job, [stage.encodes for stage in chosen.stages], chosen, None)
    changed = tuple(
        msgspec.structs.replace(
            phase,
            ahead=now.ahead[s],
            seconds=phase.seconds - now.saved[s] + now.slowed[s],
            load_seconds=phase.load_seconds - now.saved[s],
            next_load_seconds=phase.next_load_seconds - text.saved[s],
            reserved_bytes=phase.reserved_bytes + now.extra[s],
        )
        for s, phase in enumerate(phases)
    )
    return Ahead(changed, now.total, text.total, seed.total, tuple(now.reasons))


class _Timeline:
    """One run of the phases: what of each is missing, for how long the link is idle in it, and what comes early."""

    def __init__(
        self,
        phases: Sequence[PhasePlan],
        stages: Sequence[Stage],
        machine: Machine,
        job: Job,
        skipped: Sequence[bool],
        chosen: Candidate,
        warm: Mapping[str, int] | None,
    ) -> None:
        """`warm` is what is on the device when it begins; None for the next prompt, which finds what is kept."""
        self.phases, self.stages, self.machine, self.job, self.skipped = phases, stages, machine, job, skipped
        self.together, self.warm = chosen.together, warm
        self.ahead: list[dict[str, int]] = [{} for _ in phases]
        self.saved, self.slowed, self.extra = [0.0] * len(phases), [0.0] * len(phases), [0] * len(phases)
        self.reasons: list[str] = []
        self.costs = Costs(stages, machine, job.next, {}, frozenset(), {})
        self.sizes = {part.name: part.bytes for stage in stages for part in stage.demands}
        self.early: dict[tuple[int, str], int] = {}
        for s in range(len(phases)):
            if not skipped[s] and not phases[s].streamed_bytes:
                self._from(s)

    @property
    def total(self) -> float:
        """Seconds that it saves."""
        return sum(self.saved) - sum(self.slowed)

    def _from(self, s: int) -> None:
        """Bring what a phase can."""
        idle = self._idle(s)
        room = self.machine.budget - self.phases[s].reserved_bytes
        running = {placement.component for placement in self.phases[s].placements}
        later = [t for t in range(s + 1, len(self.phases)) if not self.skipped[t]]
        for t in later:
            for part, placement in zip(self.stages[t].demands, self.phases[t].placements, strict=True):
                if part.name in running or idle <= 0:
                    continue
                had = self._had(t, placement) + self.early.get((t, part.name), 0)
                # what it keeps has its room in every phase; more than that may only wait for the phase that follows
                reserved = max(0, placement.kept_bytes - had)
                most = min(idle * self._rate(part.name), reserved + (room if t == later[0] else 0))
                size = 0
                for slab in slabs(part, placement.resident_blocks, had):
                    if size + slab > most:
                        break
                    size += slab
                saved, slowed = self._gain(t, part, placement, size), self._slowed(part.name, size)
                if not size or saved <= slowed:
                    continue
                extra = max(0, segment_bytes(size) - reserved)
                if extra > room:
                    continue
                idle, room = idle - size / self._rate(part.name), room - extra
                self.ahead[s][part.name] = size
                self.early[t, part.name] = self.early.get((t, part.name), 0) + size
                self.extra[s] += extra
                self.saved[t] += saved
                self.slowed[s] += slowed
                if saved - slowed >= UNFELT_SECONDS:
                    self.reasons.append(
                        f"{in_words(size)} of the {part.name} come while {self.phases[s].label} computes and the link "
                        f"is idle: {self.phases[t].label} takes {in_seconds(saved)} less"
                    )
            # a component that runs meanwhile is its own phase's matter
            running |= {placement.component for placement in self.phases[t].placements}

    def _rate(self, name: str) -> float:
        """Bytes per second at which a component's weights come."""
        if self.warm is None or name in self.job.in_memory:
            return self.machine.again_of(name, self.sizes[name])
        return self.machine.cold

    def _had(self, t: int, placement: Placement) -> int:
        """Bytes of a component that are there when its phase begins, as core.planning.cost counts them."""
        before = self.phases[t - 1].placements if t and not self.skipped[t - 1] else ()
        there = next((each.resident_bytes for each in before if each.component == placement.component), 0)
        done = (phase for u, phase in enumerate(self.phases[:t]) if not self.skipped[u])
        ran = any(each.component == placement.component for phase in done for each in phase.placements)
        if self.warm is None or ran:
            return max(there, placement.kept_bytes)
        warm = self.warm.get(placement.component, 0)
        return max(there, warm if t == self.costs.first else min(warm, placement.kept_bytes))

    def _missing(self, t: int, part: Demand, placement: Placement) -> int:
        """Bytes that arrive in the first pass of a phase, of all that it needs."""
        stage, had = self.stages[t], self._had(t, placement)
        early = self.early.get((t, part.name), 0)
        if self.warm is None:
            crosses = max(0, placement.resident_bytes - had) + placement.streamed_bytes
            return max(0, crosses - early) + stage.once_bytes
        return max(0, part.bytes - had - early) + stage.once_bytes

    def _first(self, t: int, part: Demand, missing: int) -> float:
        """Seconds of the first pass of a phase in which so many bytes arrive."""
        stage = self.stages[t]
        rounds = stage.next_rounds() if self.warm is None else stage.rounds()
        once = stage.once_bytes
        return self.costs.first_pass(part, part.seconds * rounds[0][1], missing - once, once, self._rate(part.name))

    def _gain(self, t: int, part: Demand, placement: Placement, size: int) -> float:
        """Seconds that a phase takes less where so many more bytes are there when it begins."""
        missing = self._missing(t, part, placement)
        return self._first(t, part, missing) - self._first(t, part, max(0, missing - size))

    def _slowed(self, name: str, size: int) -> float:
        """Seconds that the kernels lose to copies beside them."""
        return self.machine.contention * size / self._rate(name)

    def _idle(self, s: int) -> float:
        """Seconds of a phase in which the link has nothing to do."""
        stage, idle = self.stages[s], 0.0
        rounds = stage.next_rounds() if self.warm is None else stage.rounds()
        texts = texts_of(self.job, self.together) if stage.encodes and self.warm is not None else 1
        for part, placement in zip(stage.demands, self.phases[s].placements, strict=True):
            missing = self._missing(s, part, placement)
            computing = texts * sum(count * factor * part.seconds for count, factor in rounds)
            first = rounds[0][1] * part.seconds
            idle += self._first(s, part, missing) + computing - first - missing / self._rate(part.name)
        return max(0.0, idle)
