"""Decides between choices of formats, folding and tiling: the best quality within the preference's time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase
from core.planning.choices import Stages, choices_of, largest_of, may_allocate, roles_of
from core.planning.cost import Found, Machine, Stage
from core.planning.fronts import Front
from core.planning.hosting import machine_for
from core.planning.job import Job, Next
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

    @property
    def folded(self) -> frozenset[str]:
        """The components whose modulation is computed before they run."""
        return folded_in(self.stages)

    def warm(self, job: Job) -> dict[str, int]:
        """Bytes of each component on the device that are of use to it."""
        return job.warm_in(self.formats, self.folded)


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
    chosen = _settled(prospects, fastest, chosen, job.next, options.prefer) or chosen
    runners = [best for best in fastest if group(best.formats) != group(chosen.formats)]
    rest = _fastest([other for other in groups[group(chosen.formats)] if other.formats != chosen.formats])
    return Decision(chosen, limit, runners + ([rest] if rest is not None else []), memories)


def _settled(
    prospects: Sequence[_Prospect], fastest: Sequence[Candidate], chosen: Candidate, expected: Next, prefer: float
) -> Candidate | None:
    """The best quality of what stays whole on the device and is as quick from then on as the preference asks for.

    Its first loading, which finer weights make longer, comes only once; so it is no reason for coarser ones, unless
    speed is all that counts. None where nothing better than the chosen one is so.
    """
    if prefer <= 0:
        return None
    slowest = slowest_good(min(_pace(best.found, expected) for best in fastest), prefer)
    settled = [
        Candidate(prospect.formats, prospect.tile, prospect.stages, whole, prospect.loss)
        for prospect in prospects
        if prospect.loss < chosen.loss
        and (whole := prospect.search.whole) is not None
        and _pace(whole, expected) <= slowest
    ]
    return min(settled, key=lambda candidate: (candidate.loss, candidate.found.expected), default=None)


def _pace(found: Found, expected: Next) -> float:
    """Seconds of the next picture with this model."""
    same = expected.text + expected.seed
    return (expected.text * found.next_text + expected.seed * found.next_seed) / same if same else found.next_text


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
        machine = machine_for(stages, job.next, hardware, options, budget)
        memory = memories.setdefault(machine, Memory(fronts))
        warm = job.warm_in(formats, folded_in(stages))
        search = Search(stages, machine, job.next, warm, job.in_memory, memory, options.keep)
        loss = sum({part.name: part.loss for stage in stages for part in stage.demands}.values())
        result.append(_Prospect(formats, tile, stages, loss, search))
    return result


def folded_in(stages: Sequence[Stage]) -> frozenset[str]:
    """The components whose modulation is computed before they run."""
    return frozenset({part.name for stage in stages for part in stage.demands if part.folded_bytes})


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
