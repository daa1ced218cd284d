"""Runs a plan in virtual time: what a card that nobody here owns would do, block by block, with its ledger.

Two lanes, one for copies (from host memory, or from the disk while files are cold) and one for kernels. A streamed
block waits for a free slot, a kernel for its block, and kernels take (1 + a) times as long while the copy lane is busy.
Calls in lockstep go through each block together before it leaves its slot. The same routine plays how other programs
hold models (see Behaviour), so that they can be compared on one card.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import LedgerRecord
from core.planning.ahead import slabs
from core.planning.choices import demands_of, machine_of
from core.planning.cost import Machine, Work
from core.planning.demand import Demand
from core.planning.fronts import Way
from core.planning.group import sharing_jobs, work_of_plan
from core.planning.job import Job
from core.planning.options import Options
from core.planning.passes import streamed_positions
from core.planning.slots import computing, seconds_of
from core.plans import PhasePlan, Placement, Plan, formats_of

_OWNER = "simulation"
ALLOCATOR = "kept by torch's allocator, not in use"  # a reason in the ledger


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """How a program streams. Ours overlaps, spreads and wraps around; `slots` is then the plan's number.

    Without `overlap` a copy waits for the kernel before it and the kernel for the copy. Without `spread` the resident
    blocks are the first ones. `rate` replaces the link's rate, for programs that copy from pageable memory.
    """

    overlap: bool = True
    spread: bool = True
    rate: float | None = None


OURS = Behaviour()


class SimulatedPhase(msgspec.Struct, frozen=True):
    """Seconds of a phase, and of one of its steps once it has settled: the median one without the first, in which
    weights arrive. Where no other one comes, it is what a streamer needs for such a pass (core.planning.slots).
    """

    label: str
    begin: float
    seconds: float
    step_seconds: float


class Simulation(msgspec.Struct, frozen=True):
    """A job in virtual time. Ledger records count seconds from its beginning.

    `link_bytes` are this job's share, as in core.plans.Plan; all else is of the jobs that are denoised together.
    """

    total_seconds: float
    phases: tuple[SimulatedPhase, ...]
    peak_bytes: int
    link_bytes: int
    ledger: tuple[LedgerRecord, ...]


def simulate(
    plan: Plan, job: Job, hardware: HardwareProfile, options: Options, behaviour: Behaviour = OURS
) -> Simulation:
    """Run a plan on a machine in virtual time."""
    demands = demands_of(plan, job, hardware, options)
    works = work_of_plan(plan, job, hardware, demands)
    coming = [
        {name: _first_later(name, plan.phases[s + 1 :], demands[s + 1 :]) for name in phase.ahead}
        for s, phase in enumerate(plan.phases)
    ]
    machine = machine_of(demands, hardware, options, plan.budget_bytes, tuple(plan.hosted.items()))
    if not machine.overlap:  # what shares the host's memory is read before it runs
        behaviour = msgspec.structs.replace(behaviour, overlap=False)
    run = _Simulator(plan, job, hardware, machine, behaviour)
    rows = zip(plan.phases, demands, works, coming, strict=True)
    phases = [run.phase(phase, row, work, later) for phase, row, work, later in rows if not phase.skipped]
    return Simulation(run.now, tuple(phases), run.peak, run.link_bytes, tuple(run.ledger))


def _first_later(
    name: str, phases: Sequence[PhasePlan], demands: Sequence[Sequence[Demand]]
) -> tuple[Placement, Demand]:
    """Where a component runs next."""
    return next(
        (placement, demand)
        for phase, row in zip(phases, demands, strict=True)
        for placement, demand in zip(phase.placements, row, strict=True)
        if placement.component == name and not phase.skipped
    )


class _Into(Enum):
    """Where a copy goes: memory of its own, a slot for streamed blocks, or one for layers that are folded."""

    PLACE, SLOT, PASSING = range(3)


class _Copy(NamedTuple):
    """A copy for a block, in one of the passes."""

    number: int
    block: int
    into: _Into
    size: int


Coming = dict[str, tuple[Placement, Demand]]
"""What comes ahead in a phase: components of later phases, and how they will run there."""


class _Simulator:
    def __init__(self, plan: Plan, job: Job, hardware: HardwareProfile, machine: Machine, behaviour: Behaviour) -> None:
        self.plan, self.job, self.behaviour = plan, job, behaviour
        self.link = behaviour.rate or machine.link
        self.machine = machine
        self.cold = {
            part.name: min(
                self.link, machine.again_of(part.name, part.bytes) if part.name in job.in_memory else machine.cold
            )
            for part in plan.components
        }
        self.contention = hardware.contention
        self.link_counts = not hardware.unified
        self.now = 0.0
        folded = {component.name for component in plan.components if component.folded_bytes}
        warm = job.warm_in(formats_of(plan), folded)
        self.held: dict[str, int] = {name: size for name, size in warm.items() if size}
        self.peak = sum(self.held.values())
        self.link_bytes = self.crossed_ahead = 0
        self.ledger: list[LedgerRecord] = []
        self.formats = formats_of(plan)
        self.early: dict[str, int] = {}  # bytes of components that came ahead of their phases, with what was there

    # -- one phase --------------------------------------------------------------------------------------------------

    def phase(self, phase: PhasePlan, demands: Sequence[Demand], work: Work, coming: Coming) -> SimulatedPhase:
        begin, crossed = self.now, self.link_bytes
        running = {placement.component for placement in phase.placements}
        kept = {component.name: component.kept_bytes for component in self.plan.components}
        for name in list(self.held):
            if name not in running and name in kept:
                stays = max(kept[name], self.early.get(name, 0))
                self._change(name, min(0, stays - self.held[name]), self.now, f"made room for {phase.label}")
        extra = phase.activation_bytes + phase.scratch_bytes
        extra, kept_free = max(0, extra + min(0, phase.allocator_bytes)), max(0, phase.allocator_bytes)
        slot = max((placement.slot_bytes for placement in phase.placements), default=0)
        self._change("activations", extra, self.now, f"activations of {phase.label}")
        self._change("activations", kept_free, self.now, ALLOCATOR)
        self._change("slots", slot * phase.slots, self.now, f"{phase.slots} slots for streamed blocks")
        settled = 0.0
        for placement, demand in zip(phase.placements, demands, strict=True):
            self.early.pop(placement.component, None)
            last = placement is phase.placements[-1]
            passes = self._component(placement, demand, phase, work, coming if last else {})
            settled += self._settled(passes, placement, demand, work, phase.slots)
        self._change("slots", -slot * phase.slots, self.now, "the phase is over")
        self._change("activations", -extra - kept_free, self.now, "the phase is over")
        for placement in phase.placements:
            self._change(
                placement.component,
                min(0, placement.kept_bytes - self.held.get(placement.component, 0)),
                self.now,
                "not kept after its phase",
            )
        self.link_bytes = crossed + (self.link_bytes - crossed) // sharing_jobs(phase, self.plan.together)
        self.link_bytes, self.crossed_ahead = self.link_bytes + self.crossed_ahead, 0
        per_step = phase.passes // phase.steps if phase.lockstep == 1 and phase.steps else 1
        return SimulatedPhase(phase.label, begin, self.now - begin, settled * per_step)

    def _settled(self, passes: Sequence[float], placement: Placement, demand: Demand, work: Work, slots: int) -> float:
        """Seconds of a component's pass when its weights have arrived."""
        later = sorted(passes[1:])
        if later:
            return later[len(later) // 2]
        counts, resident, streamed = placement.resident_blocks, placement.resident_bytes, placement.streamed_bytes
        way = Way(counts, resident, streamed, placement.slot_bytes)
        return seconds_of(computing(demand, work[0][1]), way, self.machine, max(1, slots))

    def _component(
        self, placement: Placement, demand: Demand, phase: PhasePlan, work: Work, coming: Coming
    ) -> list[float]:
        """Every pass of a component; returns the seconds of each."""
        sizes = [demand.blocks[index].bytes for index, _ in demand.sequence]
        seconds = [one for _, one in demand.sequence]
        streamed = streamed_positions(
            [index for index, _ in demand.sequence], placement.resident_blocks, spread=self.behaviour.spread
        )
        outside = demand.seconds - sum(seconds)
        had = self.held.get(placement.component, 0)
        name = placement.component
        rate = self.cold[name]
        if name in self.job.in_memory:
            rate = min(self.link, self.machine.again_of(name, max(0, demand.bytes - had) + demand.folded_bytes))
        link = min(self.link, self.machine.link_of(name, placement.streamed_bytes))
        arrivals: deque[tuple[float, float]] = deque()  # what the copy lane is busy with
        copy_free = kernel_free = self.now
        # weights outside of blocks come first, then the blocks in their order; what is there already is not copied
        missing_rest = max(0, demand.rest_bytes - had)
        had = max(0, had - demand.rest_bytes)
        if missing_rest:
            copy_free = self._copy(arrivals, copy_free, missing_rest, rate)
            self._change(name, missing_rest, copy_free, "needed by the phase")
        ready = [0.0] * len(sizes)
        for i, size in enumerate(sizes):
            if not streamed[i] and had >= size:
                had -= size
                ready[i] = -1.0
        queue = deque(_copies(sizes, streamed, ready, phase.passes, demand.folding))
        slots: deque[float] = deque([self.now] * max(1, phase.slots))
        passing = [self.now]  # from when on the layers that are folded with each block find their slots free
        marks = [self.now]
        waiting: dict[_Copy, float] = {}
        ahead: list[tuple[str, int, float]] = []
        kernel_free = max(kernel_free, copy_free if missing_rest else kernel_free)

        def issue(number: int, block: int) -> None:
            """Issue copies as far ahead as there are free slots; without overlap up to this block's."""
            nonlocal copy_free
            while queue:
                copy = queue[0]
                blocked = copy.into is _Into.PASSING and copy.block >= len(passing)
                if blocked or (copy.into is _Into.SLOT and not slots):
                    break
                if not self.behaviour.overlap and (copy.number, copy.block) > (number, block):
                    break
                queue.popleft()
                start = copy_free
                if copy.into is _Into.SLOT:
                    start = max(start, slots.popleft())
                elif copy.into is _Into.PASSING:
                    start = max(start, passing[copy.block])
                if not self.behaviour.overlap:
                    start = max(start, kernel_free)
                copy_free = waiting[copy] = self._copy(arrivals, start, copy.size, link if copy.number else rate)
                if copy.into is _Into.PLACE:
                    self._change(name, copy.size, copy_free, "needed by the phase")

        for number, factor in enumerate(factor for count, factor in work for _ in range(count)):
            for i in range(len(sizes)):
                issue(number, i)
                if not number and demand.folding:
                    folded = waiting.pop(_Copy(0, i, _Into.PASSING, demand.folding[i]), 0.0)
                    kernel_free = max(kernel_free, folded)
                    passing.append(kernel_free)
                    issue(number, i)
                if not queue and coming:
                    ahead, coming = self._ahead(arrivals, copy_free, phase, coming), {}
                into = _Into.SLOT if streamed[i] else _Into.PLACE
                start = max(kernel_free, waiting.pop(_Copy(number, i, into, sizes[i]), kernel_free))
                kernel_free = self._kernel(arrivals, start, seconds[i] * factor)
                if streamed[i]:
                    slots.append(kernel_free)
            if coming:
                ahead, coming = self._ahead(arrivals, copy_free, phase, coming), {}
            kernel_free = self._kernel(arrivals, kernel_free, outside * factor)
            marks.append(kernel_free)
        for other, size, end in ahead:
            if end <= kernel_free:  # what has not arrived when the phase is over comes in its own
                self.crossed_ahead += size if self.link_counts else 0
                self._change(other, size, end, f"comes ahead while {phase.label} computes")
                self.early[other] = self.held[other]
        self.now = max(kernel_free, self.now)
        return [b - a for a, b in itertools.pairwise(marks)]

    def _ahead(
        self, arrivals: deque[tuple[float, float]], start: float, phase: PhasePlan, coming: Coming
    ) -> list[tuple[str, int, float]]:
        """Copies of later phases' slabs behind this phase's own: component, bytes, and when each has arrived."""
        copied: list[tuple[str, int, float]] = []
        if not self.behaviour.overlap:
            return copied
        for name, (placement, demand) in coming.items():
            left = phase.ahead[name]
            for size in slabs(demand, placement.resident_blocks, self.held.get(name, 0)):
                if size > left:
                    break
                left -= size
                arrivals.append((start, start + size / self.cold[name]))
                start = arrivals[-1][1]
                copied.append((name, size, start))
        return copied

    # -- lanes ------------------------------------------------------------------------------------------------------

    def _copy(self, arrivals: deque[tuple[float, float]], start: float, size: int, rate: float) -> float:
        end = start + size / rate
        arrivals.append((start, end))
        if self.link_counts:
            self.link_bytes += size
        return end

    def _kernel(self, arrivals: deque[tuple[float, float]], start: float, seconds: float) -> float:
        """When a kernel ends that takes `seconds` alone: slower by the contention while the copy lane is busy."""
        at, left, slow = start, seconds, 1 + self.contention
        while arrivals and arrivals[0][1] <= at:
            arrivals.popleft()
        for begin, end in arrivals:
            if left <= 0 or not self.behaviour.overlap:
                break
            free = max(0.0, begin - at)
            if left <= free:
                break
            left -= free
            at = max(at, begin)
            busy = max(0.0, end - at)
            if left * slow <= busy:
                return at + left * slow
            left -= busy / slow
            at += busy
        return at + left

    def _change(self, name: str, change: int, seconds: float, reason: str) -> None:
        if not change:
            return
        self.held[name] = self.held.get(name, 0) + change
        if not self.held[name]:
            del self.held[name]
        total = sum(self.held.values())
        self.peak = max(self.peak, total)
        self.ledger.append(
            LedgerRecord(seconds, _OWNER, self.plan.model, name, self.formats.get(name, ""), change, total, reason)
        )


def _copies(
    sizes: Sequence[int], streamed: Sequence[bool], ready: Sequence[float], passes: int, folding: Sequence[int]
) -> list[_Copy]:
    """The copies of blocks, and of what is folded with them, in the order in which they are issued."""
    copies: list[_Copy] = []
    for i, size in enumerate(sizes):
        if folding and folding[i]:
            copies.append(_Copy(0, i, _Into.PASSING, folding[i]))
        if streamed[i] or ready[i] >= 0:
            copies.append(_Copy(0, i, _Into.SLOT if streamed[i] else _Into.PLACE, size))
    later = [i for i in range(len(sizes)) if streamed[i]]
    return copies + [_Copy(number, i, _Into.SLOT, sizes[i]) for number in range(1, passes) for i in later]
