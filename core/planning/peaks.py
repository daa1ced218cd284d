"""What a run will hold on the device, phase by phase: what is there counts, what is yet to come does not.

A plan keeps the budget with what every phase may have to hold, whichever prompt it runs for (PhasePlan.reserved_bytes).
A run from a cold start holds less at first, and one whose text is cached never loads its encoders. What torch's
allocator will have taken from the driver is found by playing the run's allocations to an account of it
(core.hardware.caching): it rounds, and keeps what was freed until memory runs out.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from core.hardware.caching import Block, Caching
from core.hardware.profile import HardwareProfile
from core.hardware.segments import is_shared
from core.planning import reserve
from core.planning.cost import Stage
from core.planning.demand import Demand, compute_format
from core.planning.job import Job
from core.planning.passes import streamed_positions
from core.plans import PhasePlan, Placement

_REST = -1  # the number of the slab that lies outside of blocks
_ENDLESS = 1 << 62


def predicted(
    phases: Sequence[PhasePlan],
    stages: Sequence[Stage],
    job: Job,
    hardware: HardwareProfile,
    warm: dict[str, int],
    budget: int,
) -> tuple[tuple[PhasePlan, ...], int]:
    """Phases with what lies on the device in each of them in this run; skipped ones never hold anything.

    Gives also the most bytes that the allocator, as it cuts memory up, would lack for weights.

    Args:
        warm: bytes of the components that are there when it begins and are of use.
        budget: bytes that the device may hold, which the allocator is told.
    """
    held = _held(phases, warm)
    driver = _Driver(phases, stages, job, hardware, warm, budget) if reserve.counted(hardware) else None
    first = next((s for s, phase in enumerate(phases) if not phase.skipped), 0)
    result = []
    for s, (phase, row) in enumerate(zip(phases, held, strict=True)):
        if phase.skipped:
            result.append(phase)
            continue
        running = {placement.component for placement in phase.placements}
        there = sum(row.values()) + _slots(phase) + phase.scratch_bytes + phase.activation_bytes
        # what is there when it begins counts even if it must go, and what the allocator kept of earlier runs
        before = max(job.held_bytes, sum(warm.values())) if s == first else 0
        if driver is None:
            peak, more = max(min(budget, there + job.others_bytes), before and before + phase.activation_bytes), 0
        else:
            peak = max(min(budget, driver.run(s) + job.others_bytes), before)
            more = peak - there
        beside = {name: size for name, size in row.items() if size and name not in running}
        phase = msgspec.structs.replace(phase, peak_bytes=peak, allocator_bytes=more, beside=beside)
        result.append(phase)
    return tuple(result), driver.short if driver is not None else 0


def _slots(phase: PhasePlan) -> int:
    return phase.slots * max((placement.slot_bytes for placement in phase.placements), default=0)


def _kept(phases: Sequence[PhasePlan]) -> dict[str, int]:
    kept: dict[str, int] = {}
    for placement in (placement for phase in phases for placement in phase.placements):
        kept[placement.component] = min(placement.kept_bytes, kept.get(placement.component, placement.kept_bytes))
    return kept


def _held(phases: Sequence[PhasePlan], warm: dict[str, int]) -> list[dict[str, int]]:
    """Bytes of each component on the device when each phase holds all that it will."""
    held, early, kept = dict(warm), dict[str, int](), _kept(phases)
    result = []
    for phase in phases:
        running = {placement.component: placement for placement in phase.placements if not phase.skipped}
        if running:
            held = {
                name: size if name in running else min(size, max(kept.get(name, 0), early.get(name, 0)))
                for name, size in held.items()
            }
            for name, placement in running.items():
                held[name] = placement.resident_bytes
                early.pop(name, None)
            for name, size in phase.ahead.items():
                held[name] = early[name] = held.get(name, 0) + size
        result.append(dict(held))
        held.update({name: min(held[name], kept[name]) for name in running})
    return result


class _Driver:
    """A run's allocations in the order in which core.residency makes them, played to an account of the allocator."""

    def __init__(
        self,
        phases: Sequence[PhasePlan],
        stages: Sequence[Stage],
        job: Job,
        hardware: HardwareProfile,
        warm: dict[str, int],
        budget: int,
    ) -> None:
        self.phases, self.stages, self.job, self.budget = phases, stages, job, budget
        self.kernel = reserve.attention_kernel(hardware)
        self.element = 4 if compute_format(hardware) == "F32" else 2
        self.account, self.kept = Caching(), _kept(phases)
        self.short = 0
        self.arenas: dict[str, list[tuple[list[int], Block]]] = {}
        self.early: dict[str, int] = {}
        for phase, stage in zip(phases, stages, strict=True):
            for placement, part in zip(phase.placements, stage.demands, strict=True):
                if placement.component not in self.arenas:
                    self._place(placement.component, _up_to(_slabs(part, placement), warm.get(placement.component, 0)))

    def run(self, s: int) -> int:
        """The most bytes that the driver counts while a phase runs. Phases are run in their order."""
        phase, stage, account = self.phases[s], self.stages[s], self.account
        running = [placement.component for placement in phase.placements]
        for name in self.arenas.keys() - set(running):
            self._shrink(name, max(self.kept[name], self.early.get(name, 0)))
        account.reset_peaks()
        passing = [self._hold(_slots(phase))] if _slots(phase) else []
        for placement, part in zip(phase.placements, stage.demands, strict=True):
            self.early.pop(part.name, None)
            self._place(part.name, _slabs(part, placement))
            folded = [part.passing_bytes // reserve.PASSING_SLOTS] * reserve.PASSING_SLOTS
            passing += [self._hold(size) for size in (part.scratch_bytes, *folded) if size]
        for name, size in phase.ahead.items():
            later = zip(self.phases[s + 1 :], self.stages[s + 1 :], strict=True)
            parts = ((p, d) for one, two in later for p, d in zip(one.placements, two.demands, strict=True))
            placement, part = next(pair for pair in parts if pair[0].component == name)
            self.early[name] = self._bytes(name) + size
            short = self.short
            self._place(name, _up_to(_slabs(part, placement), self.early[name]))
            self.short = short  # what finds no room ahead comes when it is needed
        need = self.job.model.phases[s]
        for passes, last in reserve.allocations(self.job, need, self.kernel, self.element, phase.tile):
            outputs = []
            for groups, kept in passes:
                for sizes in groups:
                    # of large tensors not all live at once, so that what finds no room need not have any
                    self._give_back([(self._hold if is_shared(size) else self._take)(size) for size in sizes])
                outputs += [self._take(kept)] if kept else []
            self._give_back(outputs + [self._take(size) for size in last])
        self._give_back(passing)
        for name in running:
            self._shrink(name, self.kept[name])
        widest = max(stage.demands, key=lambda part: part.activation_bytes)
        beside = phase.activation_bytes - widest.pass_bytes - sum(part.passing_bytes for part in stage.demands)
        return account.peak_reserved + max(0, beside)

    def _take(self, size: int) -> Block:
        # what would not fit is counted all the same: its bytes would, if they were in one piece
        block = self.account.take(size, self.budget) or self.account.take(size, _ENDLESS)
        assert block is not None
        return block

    def _hold(self, size: int) -> Block:
        """Memory for what must find room: weights, slots, scratch, small tensors."""
        block = self.account.take(size, self.budget)
        if block is None:
            block = self._take(size)
            self.short = max(self.short, self.account.reserved - self.budget)
        return block

    def _give_back(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            self.account.give_back(block)

    def _bytes(self, name: str) -> int:
        return sum(block.asked for _, block in self.arenas.get(name, ()))

    def _place(self, name: str, slabs: dict[int, int]) -> None:
        """Have memory for slabs, several of which share an arena where they are small; those not wanted leave."""
        arenas = self.arenas.setdefault(name, [])
        for arena in [arena for arena in arenas if not slabs.keys() >= set(arena[0])]:
            arenas.remove(arena)
            self._give_back([arena[1]])
        there = {number for numbers, _ in arenas for number in numbers}
        left = sorted(slabs.keys() - there)
        while left:
            count, total = 0, 0
            while count < len(left) and (not count or total + slabs[left[count]] <= reserve.ARENA_BYTES):
                total += slabs[left[count]]
                count += 1
            arenas.append((left[:count], self._hold(total)))
            left = left[count:]

    def _shrink(self, name: str, size: int) -> None:
        """Let arenas go until at most so many bytes are held, those of the last slabs first."""
        arenas = self.arenas[name]
        while arenas and self._bytes(name) > size:
            last = max(arenas, key=lambda arena: arena[0][0])
            arenas.remove(last)
            self._give_back([last[1]])


def _slabs(part: Demand, placement: Placement) -> dict[int, int]:
    """Bytes of the slabs that stay for a phase, by their numbers."""
    order = [index for index, _ in part.sequence]
    streamed = streamed_positions(order, placement.resident_blocks)
    blocks = {i: part.blocks[index].bytes for i, index in enumerate(order) if not streamed[i]}
    return ({_REST: part.rest_bytes} if part.rest_bytes else {}) | blocks


def _up_to(slabs: dict[int, int], size: int) -> dict[int, int]:
    """The first slabs, as many as are so many bytes together."""
    some: dict[int, int] = {}
    for number, each in slabs.items():
        size -= each
        if size < 0:
            break
        some[number] = each
    return some
