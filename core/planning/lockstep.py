"""Calls that go through each streamed block together: the guided and the unguided one of a step, those of queued jobs.

A streamed block crosses the link once for all of them, so that where copying sets the pace they cost little more than
one. Formats, folding and tiles are decided before and stay; what changes is how often blocks cross, what computes
meanwhile, and the room that the waiting calls take.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase, UserError
from core.planning.cost import Costs, Found, Machine, Stage, pass_seconds
from core.planning.decide import Candidate
from core.planning.demand import Demand
from core.planning.group import demand_beside, factors_of, group_of, texts_of, work_of
from core.planning.hosting import machine_for
from core.planning.job import Job
from core.planning.options import Options
from core.planning.search import Memory, Search
from core.sizes import in_words

# So many queued jobs at most are looked at: each costs a search, and blocks that take more than nine times as long to
# copy as to compute are rare.
MOST_COMPANIONS = 8
# What a companion must save at least, as a share of what its denoising takes alone: it costs memory and latency.
WORTH = 0.01


def in_lockstep(
    chosen: Candidate,
    job: Job,
    hardware: HardwareProfile,
    options: Options,
    budget: int,
    memories: dict[Machine, Memory],
    worth: float = 0.0,
) -> Candidate:
    """The candidate with as many calls going through its streamed blocks together as pay; itself where none do.

    First the guided and the unguided call of a step. Then companions, one after the other: each as long as all jobs
    together take less time than if it were made alone afterwards, as there is room, and as this job's picture comes no
    later than `options.latency` allows. With `options.together` all companions are taken, whatever it costs.

    Args:
        memories: what was found out when the candidate was searched for.
        worth: what the guided and the unguided call must save, as a share of the job's seconds.

    Raises:
        UserError: all are to be taken, and they do not fit.
    """
    search = _Grouping(chosen, job, hardware, options, budget, memories)
    if options.together and job.companions:
        return search.all_together()
    return search.best(worth) if options.lockstep and search.locked else chosen


class _Grouping:
    """The search for how many go together, from one candidate."""

    def __init__(
        self,
        chosen: Candidate,
        job: Job,
        hardware: HardwareProfile,
        options: Options,
        budget: int,
        memories: dict[Machine, Memory],
    ) -> None:
        self.chosen, self.job, self.hardware, self.options = chosen, job, hardware, options
        self.machine = machine_for(chosen.stages, job.next, hardware, options, budget)
        self.needs = job.model.phases
        self.denoising = [
            s
            for s, stage in enumerate(chosen.stages)
            if self.needs[s].phase is Phase.DENOISE and self.needs[s].passes == "steps" and len(stage.demands) == 1
        ]
        self.locked = frozenset(s for s in self.denoising if _streamed(chosen.found, s, chosen.stages[s]))
        self.memory = memories[self.machine] if self.machine in memories else Memory()
        self.parts: dict[tuple[object, ...], Demand] = {}

    def best(self, worth: float) -> Candidate:
        """With as many calls as pay."""
        return self._with_companions(self._guided(worth))

    def all_together(self) -> Candidate:
        """With all companions. Raises UserError where they do not fit."""
        alone = self._guided(WORTH) if self.options.lockstep else self.chosen
        jobs, locked = group_of(self.job, 1 + len(self.job.companions)), self.locked
        while True:
            grouped = self._searched(jobs, alone.stages, locked)
            if grouped is None:
                room = in_words(self.machine.budget)
                raise UserError(f"{len(jobs)} jobs of {self.job.model.name} do not fit together into {room}.")
            streamed = frozenset(s for s in self.denoising if _streamed(grouped.found, s, grouped.stages[s]))
            if streamed <= locked:
                return grouped
            locked |= streamed  # what the others compute with took the room of a few blocks

    def _guided(self, worth: float) -> Candidate:
        """With the guided and the unguided call of a step together, where that is faster."""
        alone, least = self.chosen, worth * self.chosen.found.seconds
        if any(self.job.calls_of(self.needs[s]) > 1 for s in self.locked) and self._gain(alone) > least:
            guided = self._searched([self.job], alone.stages, self.locked)
            if guided is not None and self._streams(guided) and guided.found.expected < alone.found.expected - least:
                return guided
        return alone

    def _with_companions(self, alone: Candidate) -> Candidate:
        limit = alone.found.seconds * (1 + self.options.latency)
        best, least, owed = alone, alone.found.expected, 0.0
        jobs = [self.job]
        for companion in self.job.companions[:MOST_COMPANIONS]:
            if (self.job.encoded and not companion.encoded) or not self._measured(companion.width, companion.height):
                break
            jobs.append(self.job.beside(companion))
            one = self._alone(jobs[-1], alone)
            owed += one
            texts = texts_of(self.job, len(jobs)) - 1
            stages = self._stages(jobs, alone.stages, self.locked)
            if _computing(stages) + texts * self._reading(stages, None) > limit:
                break
            grouped = self._searched(jobs, alone.stages, self.locked)
            if grouped is None or not self._streams(grouped):
                break
            if grouped.found.seconds + texts * self._reading(stages, grouped.found) > limit:
                break
            if grouped.found.expected - owed < least - WORTH * one:
                best, least = grouped, grouped.found.expected - owed
        return best

    def _gain(self, alone: Candidate) -> float:
        """Seconds that the guided and the unguided call would save together, if the waiting one took no room."""
        locked = self._stages([self.job], alone.stages, self.locked)
        seconds = [
            sum(
                count * self._pass(part, way.streamed, factor)
                for s in self.locked
                for part in stages[s].demands
                for way in [alone.found.placements[s, part.name].way]
                for count, factor in stages[s].rounds()
            )
            for stages in (alone.stages, locked)
        ]
        return seconds[0] - seconds[1]

    def _searched(self, jobs: list[Job], alone: Sequence[Stage], locked: frozenset[int]) -> Candidate | None:
        """The best residency for jobs together; None where they do not fit."""
        job, options, stages = self.job, self.options, self._stages(jobs, alone, locked)
        warm = self.chosen.warm(job)
        found = Search(stages, self.machine, job.next, warm, job.in_memory, self.memory.changed(), options.keep).run()
        if found is None:
            return None
        return msgspec.structs.replace(self.chosen, stages=stages, found=found, together=len(jobs))

    def _streams(self, grouped: Candidate) -> bool:
        """Whether there still is something to share: more room for weights can be worth more than what is shared."""
        return all(_streamed(grouped.found, s, grouped.stages[s]) for s in self.locked)

    def _stages(self, jobs: list[Job], alone: Sequence[Stage], locked: frozenset[int]) -> tuple[Stage, ...]:
        """The stages with jobs together; `alone` says how the next prompt, which is made alone, will run."""
        stages = list(self.chosen.stages)
        for s, stage in enumerate(stages):
            need = self.needs[s]
            if need.phase is not Phase.DENOISE or (s not in locked and len(jobs) == 1):
                continue
            rows = [tuple(self._part(s, part, job) for part in stage.demands) for job in jobs]
            work = work_of(need, jobs, factors_of([row[0] for row in rows]), locked=s in locked)
            calls = sum(job.calls_of(need) for job in jobs)
            stages[s] = msgspec.structs.replace(
                stage,
                passes=sum(count for count, _ in work),
                overhead=_overhead(rows, [job.calls_of(need) if s in locked else 0 for job in jobs]),
                lockstep=calls if s in locked else 1,
                work=work,
                next_work=alone[s].rounds() if len(jobs) > 1 else (),
            )
        return tuple(stages)

    def _part(self, s: int, part: Demand, job: Job) -> Demand:
        """What a job's call asks for in the formats of the candidate."""
        if job is self.job:
            return part
        key = (s, part.name, job.width, job.height, job.frames, job.steps, job.guided, job.batch)
        if key not in self.parts:
            self.parts[key] = demand_beside(part, job, self.needs[s], self.hardware)
        return self.parts[key]

    def _alone(self, job: Job, alone: Candidate) -> float:
        """Seconds that a companion's denoising takes if it is made as the next prompt, with its loading."""
        stages, names = list(alone.stages), set()
        for s, stage in enumerate(stages):
            need = self.needs[s]
            if need.phase is Phase.DENOISE:
                factors = factors_of([stage.demands[0], self._part(s, stage.demands[0], job)])[1:]
                work = work_of(need, [job], factors, locked=stage.lockstep > 1)
                stages[s] = msgspec.structs.replace(stage, next_work=work)
                names |= {part.name for part in stage.demands}
        warm = self.chosen.warm(self.job)
        costs = Costs(stages, self.machine, self.job.next, warm, self.job.in_memory, {})
        placed = alone.found.placements
        seconds = 0.0
        for name in names:
            runs = costs.runs[name]
            ways = {s: placed[s, name].way for s in runs}
            seconds += costs.share(name, ways, placed[runs[0], name].kept).text
        return seconds

    def _reading(self, stages: Sequence[Stage], found: Found | None) -> float:
        """Seconds of reading one more prompt while the encoders are there; at least so many without a placement."""
        return sum(
            self._pass(part, found.placements[s, part.name].way.streamed if found is not None else 0)
            for s, stage in enumerate(stages)
            if stage.encodes and not stage.skipped
            for part in stage.demands
        )

    def _pass(self, part: Demand, streamed: int, factor: float = 1.0) -> float:
        """Seconds of a pass that computes so many times as long."""
        link = self.machine.link_of(part.name, streamed)
        return pass_seconds(part.seconds * factor, streamed, link, self.machine.contention)

    def _measured(self, width: int, height: int) -> bool:
        """Whether the model's activations are known at a size: those of a dry run hold for this job's only."""
        return not self.job.exact or (width, height) == (self.job.width, self.job.height)


def _overhead(rows: Sequence[Sequence[Demand]], calls: Sequence[int]) -> int:
    """Bytes beside weights and slots: one call's while it computes, and what all others keep while they wait.

    What a waiting call keeps between two blocks is taken to be all that it has at its peak, which it cannot exceed.

    Args:
        rows: the demands of each job.
        calls: how many of each job's go through a block together; none where the jobs run one after the other.
    """
    parts = [row[0] for row in rows]
    scratch = sum(part.scratch_bytes + part.passing_bytes for part in rows[0])
    if not any(calls):
        return max(part.activation_bytes for row in rows for part in row) + scratch
    widest = max(parts, key=lambda part: part.activation_bytes - part.output_bytes)
    waiting = sum(each * part.waiting_bytes for each, part in zip(calls, parts, strict=True)) - widest.waiting_bytes
    outputs = sum(part.output_bytes for part in parts)
    return widest.activation_bytes - widest.output_bytes + outputs + waiting + scratch


def _streamed(found: Found, s: int, stage: Stage) -> bool:
    return any(found.placements[s, part.name].way.streamed for part in stage.demands)


def _computing(stages: Sequence[Stage]) -> float:
    """Seconds of this job's kernels: what no placement beats."""
    return sum(
        count * factor * part.seconds
        for stage in stages
        if not stage.skipped
        for count, factor in stage.rounds()
        for part in stage.demands
    )
