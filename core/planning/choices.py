"""Every choice of formats, folding and tiling for a job, each with its best residency."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase, UserError
from core.models.profile import ModelProfile
from core.planning import policy
from core.planning.cost import Found, Machine, Stage, pass_seconds
from core.planning.demand import Demand, demand
from core.planning.fronts import ways
from core.planning.job import Job
from core.planning.options import Options, tolerance
from core.planning.search import Memory, search
from core.plans import Plan
from core.precision.formats import FORMATS

RUNNERS_UP = 4  # plans to compare the chosen one with
# Edge of a tile in pixels, as diffusers' autoencoders tile by default.
TILE = 512
# Host memory that is left to the system and to everything else.
HOST_RESERVE_BYTES = 4_000_000_000
# A component with a smaller share of a model's weights keeps its source precision: packing would free next to nothing.
_WORTH_PACKING = 0.1
Known = dict[tuple[int, str, str, bool, int | None], Demand]


class Candidate(msgspec.Struct, frozen=True):
    """One choice of formats, folding and tiling with its best residency."""

    formats: dict[str, str]
    fold: bool
    tile: int | None
    demands: tuple[tuple[Demand, ...], ...]
    stages: tuple[Stage, ...]
    found: Found
    loss: float


def candidates(job: Job, hardware: HardwareProfile, options: Options, budget: int) -> list[Candidate]:
    """Every choice of formats that is worth considering, with its best residency."""
    prepared = []
    known: Known = {}
    memories: dict[Machine, Memory] = {}
    for formats, fold, tile in _choices(job, hardware, options):
        stages, demands = _stages(job, hardware, options, formats, fold, tile, known)
        loss = sum(part.loss for part in {part.name: part for row in demands for part in row}.values())
        machine = machine_of(demands, hardware, options, budget)
        prepared.append((_bound(stages, machine), loss, formats, fold, tile, stages, demands, machine))
    prepared.sort(key=lambda entry: entry[0])
    result: list[Candidate] = []
    fastest, allowed = math.inf, 1 + tolerance(options.prefer)
    best: dict[tuple[tuple[str, str], ...], float] = {}  # by formats, and by the formats of what denoises
    denoisers = {name for name, role in _roles(job.model).items() if role is Phase.DENOISE}
    for bound, loss, formats, fold, tile, stages, demands, machine in prepared:
        same, group = tuple(formats.items()), tuple(item for item in formats.items() if item[0] in denoisers)
        # one plan of each group is wanted for comparison, after it only what could be chosen
        ceiling = min(best.get(same, math.inf), fastest * allowed if group in best else math.inf)
        if bound >= ceiling or any(
            loss >= other.loss and bound >= other.found.expected for other in result if group in best
        ):
            continue
        found = search(
            stages,
            machine,
            job.next,
            job.warm,
            job.in_memory,
            memories.setdefault(machine, Memory()),
            ceiling,
            options.keep,
        )
        if found is not None:
            result.append(Candidate(formats, fold, tile, demands, stages, found, loss))
            fastest = min(fastest, found.expected)
            best[same] = min(best.get(same, math.inf), found.expected)
            best[group] = min(best.get(group, math.inf), found.expected)
    return result


def _choices(
    job: Job, hardware: HardwareProfile, options: Options
) -> Iterator[tuple[dict[str, str], bool, int | None]]:
    """(formats, folding, tile edge). Experts of one class share their format."""
    names = list(job.model.components)
    roles = _roles(job.model)
    groups: dict[str, list[str]] = {}
    for name in names:
        component = job.model.components[name]
        shared = roles[name] == Phase.DENOISE and not options.formats.get(name)
        groups.setdefault(component.class_name if shared else name, []).append(name)
    lists = [_formats(job.model, members[0], roles[members[0]], options) for members in groups.values()]
    folds = (
        [options.fold]
        if options.fold is not None
        else [False, True]
        if _foldable(job.model) and options.streaming
        else [False]
    )
    decode = [job.variables(need)["A"] for need in job.model.phases if need.phase is Phase.DECODE]
    tiles: list[int | None] = [None]
    edge = TILE // job.model.defaults.spatial
    if options.tiles != "off" and max(decode, default=0.0) > edge**2:
        tiles = [None, edge] if options.tiles == "auto" else [int(options.tiles)]
    for chosen in itertools.product(*lists):
        formats = {name: form for members, form in zip(groups.values(), chosen, strict=True) for name in members}
        for fold, tile in itertools.product(folds, tiles):
            yield formats, bool(fold), tile


def _formats(model: ModelProfile, name: str, role: Phase, options: Options) -> tuple[str, ...]:
    fixed = options.formats.get(name)
    if fixed is not None:
        if fixed not in FORMATS:
            raise UserError(f"There is no format called {fixed}; choose one of {', '.join(FORMATS)}.")
        return (fixed,)
    every = policy.allowed(model.components[name], role.value)
    parameters = {other: component.parameters for other, component in model.components.items()}
    worth = parameters[name] >= _WORTH_PACKING * sum(parameters.values())
    return every if options.packing and worth else every[:1]


def _stages(
    job: Job,
    hardware: HardwareProfile,
    options: Options,
    formats: dict[str, str],
    fold: bool,
    tile: int | None,
    known: Known | None = None,
) -> tuple[tuple[Stage, ...], tuple[tuple[Demand, ...], ...]]:
    """The stages of a choice and the demands in each; `known` remembers demands that choices share."""
    stages, rows = [], []
    known = {} if known is None else known
    for number, need in enumerate(job.model.phases):
        row = []
        for name in need.components:
            folds = fold and need.phase is Phase.DENOISE
            tiles = tile if need.phase is Phase.DECODE else None
            key = (number, name, formats[name], folds, tiles)
            if key not in known:
                component = job.model.components[name]
                part = demand(name, component, need, job, hardware, formats[name], fold=folds, tile=tiles)
                known[key] = msgspec.structs.replace(
                    part, streams=part.streams and options.streaming, resident_blocks=options.blocks.get(name)
                )
            row.append(known[key])
        overhead = max(part.activation_bytes for part in row) + max(part.scratch_bytes for part in row)
        encodes = need.phase is Phase.ENCODE
        folded = sum(part.folded_bytes for part in row)
        stages.append(Stage(tuple(row), job.passes(need), overhead, encodes, encodes and job.encoded, folded))
        rows.append(tuple(row))
    return tuple(stages), tuple(rows)


def _bound(stages: Sequence[Stage], machine: Machine) -> float:
    """Seconds that no placement beats: every stage alone on the whole device."""
    total = 0.0
    for stage in stages:
        room = machine.budget - stage.overhead
        for part in stage.demands:
            streamed = max(0, part.bytes - room) if stage.passes > 1 else 0
            total += stage.passes * pass_seconds(part.seconds, streamed, machine.link, 0.0)
    return total


def _roles(model: ModelProfile) -> dict[str, Phase]:
    """The phase that each component belongs to: the last one that runs it."""
    return {name: need.phase for need in model.phases for name in need.components}


def _foldable(model: ModelProfile) -> bool:
    return any(
        tensor.role == "modulation"
        for need in model.phases
        if need.phase is Phase.DENOISE
        for name in need.components
        for kind in (*model.components[name].kinds.values(), model.components[name].rest)
        for tensor in kind.tensors
    )


def pins(stored: int, hardware: HardwareProfile) -> bool:
    """Whether host memory allows to pin a model's weights, where that beats staging them through the ring."""
    return hardware.pinned_rate > (hardware.staged_rate or hardware.pinned_rate) and stored * 2 < hardware.host_bytes


def machine_of(parts: Sequence[Sequence[Demand]], hardware: HardwareProfile, options: Options, budget: int) -> Machine:
    """The rates that the search counts with, for components in chosen formats.

    What does not fit into host memory comes from the disk: everything again with the next prompt where the components
    together are too large, and every pass of one that is too large alone.
    """
    sizes = {part.name: part.bytes + part.folded_bytes for row in parts for part in row}
    room, stored = hardware.host_bytes - HOST_RESERVE_BYTES, sum(sizes.values())
    link = hardware.disk_rate if hardware.unified else hardware.link_rate(pinned=pins(stored, hardware))
    if max(sizes.values()) > room:
        link = min(link, hardware.disk_rate)
    return Machine(
        budget=budget,
        link=link,
        cold=min(link, hardware.disk_rate),
        again=link if stored <= room else min(link, hardware.disk_rate),
        contention=hardware.contention,
        slots=options.slots,
        overlap=options.streaming,
    )


def demands_of(plan: Plan, job: Job, hardware: HardwareProfile, options: Options) -> tuple[tuple[Demand, ...], ...]:
    """What the components of each of a plan's phases ask for, in the plan's formats."""
    formats = {component.name: component.format for component in plan.components}
    fold = any(component.folded_bytes for component in plan.components)
    tile = next((phase.tile for phase in plan.phases if phase.tile is not None), None)
    return _stages(job, hardware, options, formats, fold, tile)[1]


def smallest_budget(job: Job, hardware: HardwareProfile, options: Options) -> int:
    """Device bytes that the leanest plan needs: every phase at its least, with the smallest formats and tiles."""
    least = None
    for formats, fold, tile in _choices(job, hardware, options):
        stages, _ = _stages(job, hardware, options, formats, fold, tile)
        need = 0
        stay = {part.name: part.bytes for stage in stages for part in stage.demands if options.keep.get(part.name)}
        for stage in stages:
            leanest = [min(ways(part), key=lambda way: way.need(options.slots)) for part in stage.demands]
            slot = max((way.slot for way in leanest), default=0)
            running = {part.name for part in stage.demands}
            others = sum(size for name, size in stay.items() if name not in running)
            need = max(need, stage.overhead + sum(way.resident for way in leanest) + slot * options.slots + others)
        least = need if least is None else min(least, need)
    return least or 0
