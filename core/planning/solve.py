"""Decides a job: formats, then the best residency for each choice of them, then the best under the preference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase, UserError
from core.models.profile import ModelProfile
from core.planning import policy
from core.planning.demand import Demand, compute_format, demand
from core.planning.explain import explained, why_not
from core.planning.fronts import ways
from core.planning.job import Job
from core.planning.search import Found, Machine, Memory, Stage, pass_seconds, search
from core.plans import Alternative, ComponentPlan, PhasePlan, Placement, Plan
from core.precision.formats import FORMATS

# Edge of a tile in pixels, as diffusers' autoencoders tile by default.
TILE = 512
# The preference in the middle takes the best quality within so much of the fastest plan's expected seconds.
_MIDDLE_TOLERANCE = 0.15
# Host memory that is left to the system and to everything else.
HOST_RESERVE_BYTES = 4_000_000_000
_RUNNERS_UP = 4
# A component with a smaller share of a model's weights keeps its source precision: packing would free next to nothing.
_WORTH_PACKING = 0.1


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the person or the engine fixes. None leaves it to the planner.

    `formats`, `blocks` (how many are resident) and `keep` (stays between phases and jobs, or leaves) are by component.
    `streaming` and `packing` say what the engine can do; `tiles` is "auto", "off" or an edge in latent positions.
    `prefer` is 0 (fastest) to 1 (best quality).
    """

    prefer: float = 0.5
    formats: dict[str, str] = {}
    slots: int = 2
    fold: bool | None = None
    tiles: str = "auto"
    blocks: dict[str, int] = {}
    keep: dict[str, bool] = {}
    streaming: bool = True
    packing: bool = True
    headroom_bytes: int | None = None


DEFAULT = Options()
# What the engine does today: components whole, in the precision that they compute in, the VAE whole.
ENGINE = Options(streaming=False, packing=False, fold=False, tiles="off", prefer=0.0)

Known = dict[tuple[int, str, str, bool, int | None], Demand]


class _Candidate(msgspec.Struct, frozen=True):
    """One choice of formats, folding and tiling with its best residency."""

    formats: dict[str, str]
    fold: bool
    tile: int | None
    demands: tuple[tuple[Demand, ...], ...]
    stages: tuple[Stage, ...]
    found: Found
    loss: float


def budget_of(hardware: HardwareProfile, options: Options = DEFAULT) -> int:
    """Bytes of device memory that a job may use: the card's, less the driver's context and the headroom."""
    headroom = hardware.headroom_bytes if options.headroom_bytes is None else options.headroom_bytes
    return hardware.memory_bytes - hardware.context_bytes - headroom


def solve(
    job: Job, hardware: HardwareProfile, options: Options = DEFAULT, budget: int | None = None
) -> tuple[Plan, list[Alternative]]:
    """The plan of a job on a machine, and the plans that came next with the reason why they lost.

    Raises:
        UserError: nothing fits; the sentence says the smallest budget that would do.
    """
    budget = budget_of(hardware, options) if budget is None else budget
    if budget <= 0:
        raise UserError(
            f"Nothing is left of {hardware.memory_bytes / 1e9:.1f} GB after headroom and the driver's own memory; "
            "give a smaller --headroom or a larger --vram."
        )
    if not 0 <= options.prefer <= 1:
        raise UserError(f"A preference of {options.prefer:g} is not possible; give 0 (fastest) to 1 (best quality).")
    candidates = _candidates(job, hardware, options, budget)
    if not candidates:
        smallest = smallest_budget(job, hardware, options)
        raise UserError(
            f"{job.model.name} at {job.width}x{job.height} needs at least {smallest / 1e9:.1f} GB of device memory and "
            f"{budget / 1e9:.1f} GB may be used; use a smaller size, close other programs or give more with --vram."
        )
    fastest = min(candidate.found.expected for candidate in candidates)
    limit = fastest * (1 + tolerance(options.prefer))
    chosen = min(
        (candidate for candidate in candidates if candidate.found.expected <= limit * (1 + 1e-9)),
        key=lambda candidate: (candidate.loss, candidate.found.expected),
    )
    plan = _plan(chosen, job, hardware, options, budget)
    best_first = sorted(candidates, key=lambda candidate: candidate.found.expected)
    runners = _runners_up(best_first, chosen)
    alternatives = [_alternative(runner, chosen, job, hardware, options, budget, limit) for runner in runners]
    return explained(plan, alternatives, job, hardware), alternatives


def tolerance(prefer: float) -> float:
    """How much slower than the fastest a better plan may be: 0 at 0, 15 % at 0.5, without limit at 1."""
    return _MIDDLE_TOLERANCE * prefer / (1 - prefer) if prefer < 1 else float("inf")


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


# -- candidates -----------------------------------------------------------------------------------------------------


def _candidates(job: Job, hardware: HardwareProfile, options: Options, budget: int) -> list[_Candidate]:
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
    result: list[_Candidate] = []
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
            result.append(_Candidate(formats, fold, tile, demands, stages, found, loss))
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


# -- the plan that is shown -----------------------------------------------------------------------------------------


def _plan(chosen: _Candidate, job: Job, hardware: HardwareProfile, options: Options, budget: int) -> Plan:
    machine = machine_of(chosen.demands, hardware, options, budget)
    phases = tuple(_phase(s, chosen, job, machine) for s in range(len(chosen.stages)))
    parts = {part.name: part for row in chosen.demands for part in row}
    kept = {name: placed.kept for (_, name), placed in chosen.found.placements.items()}
    components = tuple(
        ComponentPlan(
            name=name,
            format=_held(part.format, hardware),
            bytes=part.bytes,
            kept_bytes=kept[name],
            folded_bytes=part.folded_bytes,
            loss=part.loss,
        )
        for name, part in parts.items()
    )
    link_bytes = 0
    if not hardware.unified:
        for s, stage in enumerate(chosen.stages):
            for part in stage.demands:
                way = chosen.found.placements[s, part.name].way
                if not stage.skipped:
                    had = min(job.warm.get(part.name, 0), kept[part.name])
                    link_bytes += max(0, part.bytes - had) + (stage.passes - 1) * way.streamed + part.folded_bytes
    return Plan(
        model=job.model.name,
        gpu=hardware.name,
        budget_bytes=budget,
        components=components,
        phases=phases,
        pinned=pins(sum(part.bytes + part.folded_bytes for part in parts.values()), hardware),
        total_seconds=sum(phase.seconds for phase in phases),
        next_seconds=chosen.found.next_text,
        expected_seconds=chosen.found.expected,
        peak_bytes=max(phase.peak_bytes for phase in phases if not phase.skipped),
        link_bytes=link_bytes,
        loss=chosen.loss,
    )


def _held(name: str, hardware: HardwareProfile) -> str:
    """The format that weights have on the device: what is not packed is held as it computes, if that is F32."""
    compute = compute_format(hardware)
    return compute if compute == "F32" and not FORMATS[name].packed else name


def _phase(s: int, chosen: _Candidate, job: Job, machine: Machine) -> PhasePlan:
    need, stage, found = job.model.phases[s], chosen.stages[s], chosen.found
    placements = []
    slot = 0
    for part in stage.demands:
        placed = found.placements[s, part.name]
        way = placed.way
        slot = max(slot, way.slot)
        placements.append(
            Placement(
                component=part.name,
                blocks=sum(blocks.count for blocks in part.blocks),
                resident_blocks=way.counts,
                resident_bytes=way.resident,
                streamed_bytes=way.streamed,
                slot_bytes=way.slot,
                kept_bytes=placed.kept,
                compute_seconds=part.seconds,
                pass_seconds=pass_seconds(part.seconds, way.streamed, machine.link, machine.contention),
            )
        )
    running = {part.name for part in stage.demands}
    others = {name: placed.kept for (_, name), placed in found.placements.items() if name not in running}
    passes, steps = stage.passes, job.steps_of(need)
    one = sum(placement.pass_seconds for placement in placements)
    load, again = found.loads[s]
    activation = max(part.activation_bytes for part in stage.demands)
    scratch = max(part.scratch_bytes for part in stage.demands)
    slots = machine.slots if slot else 0
    resident = sum(placement.resident_bytes for placement in placements)
    return PhasePlan(
        phase=need.phase,
        label=need.label,
        placements=tuple(placements),
        steps=steps,
        passes=passes,
        slots=slots,
        scratch_bytes=scratch,
        activation_bytes=activation,
        tile=chosen.tile if need.phase is Phase.DECODE else None,
        seconds=0.0 if stage.skipped else load + passes * one,
        step_seconds=one * passes / steps,
        load_seconds=0.0 if stage.skipped else load,
        next_load_seconds=again,
        kept_bytes=sum(others.values()),
        peak_bytes=resident + slots * slot + scratch + activation + sum(others.values()),
        skipped=stage.skipped,
    )


def _runners_up(best_first: list[_Candidate], chosen: _Candidate) -> list[_Candidate]:
    """The next plans: for each other format of what denoises the fastest plan, then other formats of the rest."""
    roles = {part.name for stage in chosen.stages if stage.passes > 1 for part in stage.demands}

    def key(candidate: _Candidate) -> tuple[str, ...]:
        return tuple(name for component, name in candidate.formats.items() if component in roles)

    seen, result = {key(chosen)}, []
    for candidate in best_first:
        if key(candidate) not in seen:
            seen.add(key(candidate))
            result.append(candidate)
    same = [
        candidate for candidate in best_first if candidate.formats != chosen.formats and key(candidate) == key(chosen)
    ]
    result += [next(iter(same))] if same else []
    return sorted(result, key=lambda candidate: candidate.loss)[: _RUNNERS_UP + 1]


def _alternative(
    runner: _Candidate,
    chosen: _Candidate,
    job: Job,
    hardware: HardwareProfile,
    options: Options,
    budget: int,
    limit: float,
) -> Alternative:
    plan = _plan(runner, job, hardware, options, budget)
    return Alternative(
        formats=runner.formats,
        total_seconds=plan.total_seconds,
        next_seconds=plan.next_seconds,
        expected_seconds=plan.expected_seconds,
        peak_bytes=plan.peak_bytes,
        loss=plan.loss,
        why_not=why_not(runner.found, runner.loss, chosen.found, chosen.loss, limit),
    )
