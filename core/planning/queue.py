"""What several prompts of one model take when they are asked for together: read while the encoders are there, made one
after the other or in lockstep, each with what the one before left on the device."""

from __future__ import annotations

import math

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase
from core.planning.explain import seconds as in_seconds
from core.planning.job import Job
from core.planning.lockstep import MOST_COMPANIONS
from core.planning.options import Options
from core.planning.solve import solve
from core.plans import PhasePlan, Plan, formats_of
from core.sizes import in_words


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds until the last of `jobs` is there, and bytes that cross the link for all of them.

    The texts of `read_ahead` of them are read while the first one's encoders are on the device. `apart_...` is what it
    would be if each read its own.
    """

    jobs: int
    read_ahead: int
    total_seconds: float
    link_bytes: int
    apart_seconds: float
    apart_link_bytes: int

    @property
    def words(self) -> str:
        """All of it in a sentence."""
        took = f"{self.jobs} queued prompts take {in_seconds(self.total_seconds)} together"
        crosses = f"{in_words(self.link_bytes)} cross the link"
        if not self.read_ahead:
            return f"{took}, and {crosses}"
        return (
            f"{took}, and {crosses}: {self.read_ahead} of them are read while the text encoders are on the device for "
            f"the first ones (each by itself: {in_seconds(self.apart_seconds)} and {in_words(self.apart_link_bytes)})"
        )


def pays(plan: Plan, phase: PhasePlan) -> bool:
    """Whether the encoders of a phase will leave: if they stay, each job may encode when its turn comes."""
    return any(
        plan.component(placement.component).kept_bytes < placement.resident_bytes for placement in phase.placements
    )


def queue_of(plan: Plan, job: Job, hardware: HardwareProfile, options: Options, *, cache: bool = True) -> Queue:
    """What a job and its companions take, the first of which are planned.

    Args:
        cache: whether encodings are kept, without which nothing is read ahead.
    """
    waiting = len(job.companions) + 1 - plan.together
    reading = [phase for phase in plan.phases if phase.phase is Phase.ENCODE and not phase.skipped]
    leaves = any(pays(plan, phase) for phase in reading)
    one = sum(phase.step_seconds for phase in reading)
    ahead = 0
    if cache and leaves and waiting and one > 0:  # as long as core.scheduler.ahead goes on
        ahead = min(waiting, math.ceil(options.latency * plan.total_seconds / one))
    crossing = 0 if hardware.unified else ahead * sum(phase.streamed_bytes for phase in reading)
    known: dict[tuple[bool, int], Plan] = {}

    def rest(encoded: int) -> tuple[float, int]:
        """Seconds and bytes of all that wait, the first of which are encoded."""
        taken, crossed, left = 0.0, 0, waiting
        while left:
            most = min(left, encoded) if encoded > 0 else left
            key = (encoded > 0, min(most - 1, MOST_COMPANIONS))
            if key not in known:
                known[key] = _next(plan, job, hardware, options, *key)
            seconds, size = _group(known[key])
            taken, crossed = taken + seconds, crossed + size
            left, encoded = left - known[key].together, encoded - known[key].together
        return taken, crossed

    (first, first_bytes), together, apart = _group(plan), rest(ahead), rest(0)
    return Queue(
        jobs=len(job.companions) + 1,
        read_ahead=ahead,
        total_seconds=first + ahead * one + together[0],
        link_bytes=first_bytes + crossing + together[1],
        apart_seconds=first + apart[0],
        apart_link_bytes=first_bytes + apart[1],
    )


def _group(plan: Plan) -> tuple[float, int]:
    """Seconds until the last of the jobs of a plan is there, and bytes that cross the link for all of them."""
    decoding = sum(phase.seconds for phase in plan.phases if phase.phase is Phase.DECODE)
    return plan.total_seconds + (plan.together - 1) * decoding, plan.link_bytes * plan.together


def _next(plan: Plan, job: Job, hardware: HardwareProfile, options: Options, encoded: bool, companions: int) -> Plan:
    """The plan of one of those that wait, with what is kept of the one before."""
    companion = job.companions[0]
    folded = {component.name: component.folded_bytes > 0 for component in plan.components}
    waits = msgspec.structs.replace(
        job.beside(companion),
        encoded=encoded or companion.encoded,
        companions=(msgspec.structs.replace(companion, encoded=encoded or companion.encoded),) * companions,
        warm={component.name: component.kept_bytes for component in plan.components if component.kept_bytes},
        warm_formats=formats_of(plan),
        warm_folded=folded,
        in_memory=frozenset(component.name for component in plan.components),
    )
    return solve(waits, hardware, options, plan.budget_bytes)[0]
