"""What there is to choose from: formats, folding and tiling, and the stages and rates that follow from a choice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase, UserError
from core.models.profile import ModelProfile
from core.planning import policy
from core.planning.cost import Hosted, Machine, Stage
from core.planning.demand import TILED, Demand, compute_format, demand
from core.planning.fronts import ways
from core.planning.job import Job
from core.planning.options import Options
from core.plans import Plan
from core.precision.formats import FORMATS
from core.sizes import in_words

# Edge of a tile in pixels, as diffusers' autoencoders tile by default.
TILE = 512
# Host memory that is left to the system and to everything else.
HOST_RESERVE_BYTES = 4_000_000_000
# A component with a smaller share of a model's weights keeps its source precision: packing would free next to nothing.
_WORTH_PACKING = 0.1


def choices_of(
    job: Job, hardware: HardwareProfile, options: Options
) -> Iterator[tuple[dict[str, str], bool, int | None]]:
    """(formats, folding, tile edge). Experts of one class share their format."""
    names = list(job.model.components)
    roles = roles_of(job.model)
    groups: dict[str, list[str]] = {}
    for name in names:
        component = job.model.components[name]
        shared = roles[name] == Phase.DENOISE and not options.formats.get(name)
        groups.setdefault(component.class_name if shared else name, []).append(name)
    parameters = {name: component.parameters for name, component in job.model.components.items()}
    worth = {name for name in names if parameters[name] >= _WORTH_PACKING * sum(parameters.values())}
    compute = compute_format(hardware)
    lists = [_formats(job.model, members[0], roles, options, worth, compute) for members in groups.values()]
    folds = (
        [options.fold]
        if options.fold is not None
        else [False, True]
        if _foldable(job.model) and options.streaming
        else [False]
    )
    decode = [job.variables(need)["A"] for need in job.model.phases if need.phase is Phase.DECODE]
    tiles: list[int | None] = [None]
    edge = TILE // job.model.defaults.spatial if options.tiles in ("auto", "off") else int(options.tiles)
    if options.tiles != "off" and max(decode, default=0.0) > edge**2:
        tiles = [None, edge] if options.tiles == "auto" else [edge]
    for chosen in itertools.product(*lists):
        formats = {name: form for members, form in zip(groups.values(), chosen, strict=True) for name in members}
        for fold, tile in itertools.product(folds, tiles):
            yield formats, bool(fold), tile


def _formats(
    model: ModelProfile, name: str, roles: dict[str, Phase], options: Options, worth: set[str], compute: str
) -> tuple[str, ...]:
    fixed = options.formats.get(name)
    if fixed is not None:
        if fixed not in FORMATS:
            raise UserError(f"There is no format called {fixed}; choose one of {', '.join(FORMATS)}.")
        return (fixed,)
    if not options.packing and policy.as_filed(model.components[name].source_format):
        return (compute,)  # decoded when it is read
    every = policy.allowed(model.components[name], roles[name].value)
    return every if options.packing and name in worth else every[:1]


class Stages:
    """The stages of choices; those that choices share are made once."""

    def __init__(self, job: Job, hardware: HardwareProfile, options: Options) -> None:
        self.job, self.hardware, self.options = job, hardware, options
        self.demands: dict[tuple[int, str, str, bool, int | None], Demand] = {}
        self.stages: dict[tuple[int, tuple[str, ...], bool, int | None], Stage] = {}

    def of(self, formats: dict[str, str], fold: bool, tile: int | None) -> tuple[Stage, ...]:
        """The stages of a choice, in the order of the model's phases."""
        return tuple([self._stage(number, formats, fold, tile) for number in range(len(self.job.model.phases))])

    def _stage(self, number: int, formats: dict[str, str], fold: bool, tile: int | None) -> Stage:
        job, need = self.job, self.job.model.phases[number]
        fold = fold and need.phase is Phase.DENOISE
        before = {each.phase for each in job.model.phases[: number + 1]}
        tile = tile if before & set(TILED) else None  # what an allocator took in earlier phases is there
        key = (number, tuple([formats[name] for name in need.components]), fold, tile)
        if key not in self.stages:
            row = tuple(self._demand(number, name, formats[name], fold, tile) for name in need.components)
            overhead = max(part.activation_bytes for part in row)
            overhead += sum(part.scratch_bytes + part.passing_bytes for part in row)
            encodes, folded = need.phase is Phase.ENCODE, sum(part.folded_bytes for part in row)
            skipped = job.encoded if encodes else need.phase is Phase.IMAGE_ENCODE and job.pictured
            self.stages[key] = Stage(row, job.passes(need), overhead, encodes, skipped, folded)
        return self.stages[key]

    def _demand(self, number: int, name: str, wanted: str, fold: bool, tile: int | None) -> Demand:
        key = (number, name, wanted, fold, tile)
        if key not in self.demands:
            need, component = self.job.model.phases[number], self.job.model.components[name]
            part = demand(name, component, need, self.job, self.hardware, wanted, fold=fold, tile=tile)
            # slots are one allocation
            slots = self.options.slots * max((blocks.bytes for blocks in part.blocks), default=0)
            self.demands[key] = msgspec.structs.replace(
                part,
                streams=part.streams and self.options.streaming and may_allocate(slots, self.hardware),
                resident_blocks=self.options.blocks.get(name),
            )
        return self.demands[key]


def may_allocate(size: int, hardware: HardwareProfile) -> bool:
    """Whether the device allows one allocation of so many bytes."""
    return hardware.largest_allocation_bytes is None or size <= hardware.largest_allocation_bytes


def largest_of(stages: Sequence[Stage]) -> int:
    """Bytes of the largest allocation that stages cannot do without."""
    return max(part.largest_bytes for stage in stages for part in stage.demands)


def roles_of(model: ModelProfile) -> dict[str, Phase]:
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
    """Whether host memory allows to pin what streams of a model, where that beats staging it through the ring."""
    return hardware.pinned_rate > (hardware.staged_rate or hardware.pinned_rate) and stored * 2 < hardware.host_bytes


def machine_of(
    parts: Sequence[Sequence[Demand]], hardware: HardwareProfile, options: Options, budget: int, hosted: Hosted = ()
) -> Machine:
    """The rates that the search counts with, for components in chosen formats.

    What stays is staged through the ring when it comes; what streams may stay in pinned memory and come from there.
    What is not `hosted` comes from the disk, each time; the rest is then not pinned, since it fills the host's memory.
    """
    sizes = {part.name: part.bytes + part.folded_bytes for row in parts for part in row}
    pinned = not hosted and pins(sum(sizes.values()), hardware)
    link = hardware.disk_rate if hardware.unified else hardware.link_rate(pinned=pinned)
    staged = link if hardware.unified else hardware.link_rate(pinned=False)
    return Machine(
        budget=budget,
        link=link,
        cold=min(staged, hardware.disk_rate),
        again=staged,
        contention=hardware.contention,
        slots=options.slots,
        overlap=options.streaming,
        hosted=hosted,
        disk=hardware.disk_rate if hosted else math.inf,
    )


def demands_of(plan: Plan, job: Job, hardware: HardwareProfile, options: Options) -> tuple[tuple[Demand, ...], ...]:
    """What the components of each of a plan's phases ask for, in the plan's formats."""
    formats = {component.name: component.format for component in plan.components}
    fold = any(component.folded_bytes for component in plan.components)
    tile = next((phase.tile for phase in plan.phases if phase.tile is not None), None)
    return tuple(stage.demands for stage in Stages(job, hardware, options).of(formats, fold, tile))


def smallest_budget(job: Job, hardware: HardwareProfile, options: Options) -> int:
    """Device bytes that the leanest plan needs: every phase at its least, with the smallest formats and tiles.

    Raises:
        UserError: the device does not allow allocations as large as every plan needs.
    """
    least = None
    known = Stages(job, hardware, options)
    leanest: dict[int, int] = {}  # by identity of stages, which `known` keeps alive
    one = None
    for formats, fold, tile in choices_of(job, hardware, options):
        stages = known.of(formats, fold, tile)
        one = largest_of(stages) if one is None else min(one, largest_of(stages))
        if not may_allocate(largest_of(stages), hardware):
            continue
        stay = {part.name: part.bytes for stage in stages for part in stage.demands if options.keep.get(part.name)}
        need = 0
        for stage in stages:
            if id(stage) not in leanest:
                leanest[id(stage)] = _leanest(stage, options.slots)
            running = {part.name for part in stage.demands}
            others = sum(size for name, size in stay.items() if name not in running)
            need = max(need, leanest[id(stage)] + others)
        least = need if least is None else min(least, need)
    if least is None:
        raise UserError(
            f"{job.model.name} at {job.width}x{job.height} needs one allocation of {in_words(one or 0)}, and "
            f"{hardware.title} allows {in_words(hardware.largest_allocation_bytes or 0)}; use a smaller size or tiles."
        )
    return least


def _leanest(stage: Stage, slots: int) -> int:
    """The fewest bytes that a stage runs in: for each size that its slots may have, every component at its least."""
    every = [ways(part, 0) for part in stage.demands]
    needs = []
    for slot in {way.slot for some in every for way in some}:
        least = [min((way.resident for way in some if way.slot <= slot), default=None) for some in every]
        if None not in least:
            needs.append(sum(size for size in least if size is not None) + slots * slot)
    return stage.overhead + min(needs)
