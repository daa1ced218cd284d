"""The passes of jobs that are denoised together: how many there are, and how much each of them computes."""

from __future__ import annotations

from collections.abc import Sequence

from core.hardware.profile import HardwareProfile
from core.messages import Phase
from core.models.profile import PhaseNeed
from core.planning.cost import Work
from core.planning.demand import Demand, demand
from core.planning.job import Job
from core.plans import PhasePlan, Plan


def group_of(job: Job, together: int) -> list[Job]:
    """The jobs that are denoised at the same time: this one and its first companions."""
    return [job, *(job.beside(companion) for companion in job.companions[: together - 1])]


def texts_of(job: Job, together: int) -> int:
    """How many prompts are read before jobs are denoised together."""
    return 1 + sum(not companion.encoded for companion in job.companions[: together - 1])


def sharing_jobs(phase: PhasePlan, together: int) -> int:
    """How many jobs share what crosses the link in a phase."""
    passes = phase.passes
    return {Phase.ENCODE: passes, Phase.IMAGE_ENCODE: passes, Phase.DENOISE: together}.get(phase.phase, 1)


def work_of(need: PhaseNeed, jobs: Sequence[Job], factors: Sequence[float], *, locked: bool) -> Work:
    """The passes of jobs through a phase, and how much each computes.

    In lockstep a pass takes all calls of a step, of every job that still has one. Else each call is a pass.

    Args:
        factors: seconds of one call of each job, as multiples of the first job's.
    """
    steps, calls = [job.steps_of(need) for job in jobs], [job.calls_of(need) for job in jobs]
    rounds: list[tuple[int, float]] = []
    if locked:
        begin = 0
        for end in sorted(set(steps)):
            every = zip(steps, calls, factors, strict=True)
            rounds.append((end - begin, sum(each * factor for some, each, factor in every if some >= end)))
            begin = end
    else:
        rounds = [(some * each, factor) for some, each, factor in zip(steps, calls, factors, strict=True)]
    merged: list[tuple[int, float]] = []
    for count, computing in rounds:
        if merged and merged[-1][1] == computing:
            count += merged.pop()[0]
        merged.append((count, computing))
    return tuple(merged)


def factors_of(parts: Sequence[Demand]) -> list[float]:
    """Seconds of a call of each job, as multiples of the first job's; all alike where nobody knows them."""
    return [part.seconds / parts[0].seconds if parts[0].seconds else 1.0 for part in parts]


def work_of_plan(plan: Plan, job: Job, hardware: HardwareProfile, demands: Sequence[Sequence[Demand]]) -> list[Work]:
    """The passes of each of a plan's phases, and how much each computes. `demands` are those of the job's own calls."""
    works = []
    for phase, need, row in zip(plan.phases, job.model.phases, demands, strict=True):
        work: Work = ((phase.passes, 1.0),)
        if phase.phase is Phase.DENOISE and (plan.together > 1 or phase.lockstep > 1):
            jobs = group_of(job, plan.together)
            own = [row[0], *(demand_beside(row[0], other, need, hardware) for other in jobs[1:])]
            work = work_of(need, jobs, factors_of(own), locked=phase.lockstep > 1)
        works.append(work)
    return works


def demand_beside(part: Demand, job: Job, need: PhaseNeed, hardware: HardwareProfile) -> Demand:
    """What a call of another job asks for, in the same format."""
    fold = part.folded_bytes > 0
    return demand(part.name, job.model.components[part.name], need, job, hardware, part.format, fold=fold)
