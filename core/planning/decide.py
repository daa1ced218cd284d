"""Decides between choices of formats, folding and tiling: the best quality within the preference's time."""

from __future__ import annotations

import heapq
import math

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase
from core.planning.choices import Stages, choices_of, largest_of, machine_of, may_allocate, roles_of
from core.planning.cost import Found, Machine, Stage
from core.planning.fronts import Front
from core.planning.job import Job
from core.planning.options import Options, slowest_good
from core.planning.search import Memory, Search


class Candidate(msgspec.Struct, frozen=True):
    """One choice of formats, folding and tiling with its best residency, for `together` jobs at the same time."""

    formats: dict[str, str]
    tile: int | None
    stages: tuple[Stage, ...]
    found: Found
    loss: float
    together: int = 1


class Decision(msgspec.Struct, frozen=True):
    """The chosen candidate, the expected seconds that the preference allows it, and what came next.

    `runners` are the fastest of each other format of what denoises, and the fastest of other formats of the rest.
    `memories` are what the searches found out on each machine.
    """

    chosen: Candidate
    limit: float
    runners: list[Candidate]
    memories: dict[Machine, Memory]


def decide(job: Job, hardware: HardwareProfile, options: Options, budget: int) -> Decision | None:
    """The best quality within the preference's time; None where nothing fits.

    The fastest plan says how long a better one may take; then choices are tried from the best quality downwards.
    """
    memories: dict[Machine, Memory] = {}
    prospects = _prospects(job, hardware, options, budget, memories)
    denoisers = [name for name, role in roles_of(job.model).items() if role is Phase.DENOISE]

    def group(formats: dict[str, str]) -> tuple[str, ...]:
        return tuple([formats[name] for name in denoisers])

    groups: dict[tuple[str, ...], list[_Prospect]] = {}
    levels: dict[float, list[_Prospect]] = {}
    for prospect in prospects:
        groups.setdefault(group(prospect.formats), []).append(prospect)
        levels.setdefault(prospect.loss, []).append(prospect)
    fastest = [best for some in groups.values() if (best := _fastest(some)) is not None]
    if not fastest:
        return None
    limit = slowest_good(min(best.found.expected for best in fastest), options.prefer)
    by_quality = (_fastest(levels[loss], limit * (1 + 1e-9)) for loss in sorted(levels))
    chosen = next(best for best in by_quality if best is not None)
    runners = [best for best in fastest if group(best.formats) != group(chosen.formats)]
    rest = _fastest([other for other in groups[group(chosen.formats)] if other.formats != chosen.formats])
    return Decision(chosen, limit, runners + ([rest] if rest is not None else []), memories)


class _Prospect:
    """A choice whose expected seconds are bounded from below, more sharply each time that somebody asks."""

    def __init__(
        self, formats: dict[str, str], tile: int | None, stages: tuple[Stage, ...], loss: float, search: Search
    ) -> None:
        self.formats, self.tile, self.stages, self.loss, self.search = formats, tile, stages, loss, search
        self.least = search.alone
        self.bounded = False
        self.candidate: Candidate | None = None

    def sharpen(self) -> None:
        """Raise `least`: to a better bound, and then to what the best residency takes."""
        if not self.bounded:
            self.least, self.bounded = max(self.least, self.search.bound), True
            return
        found = self.search.run()
        self.least = math.inf if found is None else found.expected
        if found is not None:
            self.candidate = Candidate(self.formats, self.tile, self.stages, found, self.loss)


def _prospects(
    job: Job, hardware: HardwareProfile, options: Options, budget: int, memories: dict[Machine, Memory]
) -> list[_Prospect]:
    known = Stages(job, hardware, options)
    fronts: dict[int, Front] = {}
    result = []
    for formats, fold, tile in choices_of(job, hardware, options):
        stages = known.of(formats, fold, tile)
        if not may_allocate(largest_of(stages), hardware):
            continue
        machine = machine_of([stage.demands for stage in stages], hardware, options, budget)
        memory = memories.setdefault(machine, Memory(fronts))
        search = Search(stages, machine, job.next, job.warm_in(formats), job.in_memory, memory, options.keep)
        loss = sum({part.name: part.loss for stage in stages for part in stage.demands}.values())
        result.append(_Prospect(formats, tile, stages, loss, search))
    return result


def _fastest(prospects: list[_Prospect], ceiling: float = math.inf) -> Candidate | None:
    """The candidate with the fewest expected seconds, if they are less than `ceiling`."""
    heap = [(prospect.least, number) for number, prospect in enumerate(prospects)]
    heapq.heapify(heap)
    while heap and heap[0][0] < ceiling:
        _, number = heap[0]
        prospect = prospects[number]
        if prospect.candidate is not None:
            return prospect.candidate
        prospect.sharpen()
        heapq.heapreplace(heap, (prospect.least, number))
    return None
