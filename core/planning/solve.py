"""Decides a job: formats, then the best residency for each choice of them, then the best under the preference."""

from __future__ import annotations

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase, UserError
from core.planning.ahead import Ahead, load_ahead
from core.planning.choices import may_allocate, pins
from core.planning.cost import Machine
from core.planning.decide import Candidate, decide
from core.planning.demand import TILED, compute_format
from core.planning.explain import explained, why_not
from core.planning.group import sharing_jobs, texts_of
from core.planning.hosting import machine_for
from core.planning.impossible import refusal
from core.planning.job import Job
from core.planning.lockstep import WORTH, in_lockstep
from core.planning.options import DEFAULT, Options, budget_of
from core.planning.passes import MOST_SLOTS
from core.planning.peaks import predicted
from core.planning.slots import computing, seconds_of, settled
from core.plans import Alternative, ComponentPlan, PhasePlan, Placement, Plan
from core.precision.formats import FORMATS
from core.sizes import in_words

# Plans to compare the chosen one with.
_RUNNERS_UP = 5
# How often less is planned for where an allocator's rounding leaves no room for the plan's weights.
_TRIES = 4
# Of the budget: less than this is lost to rounding even on a large card, and found again in what is given way to it.
_ROUNDING = 0.01


def solve(
    job: Job, hardware: HardwareProfile, options: Options = DEFAULT, budget: int | None = None
) -> tuple[Plan, list[Alternative]]:
    """The plan of a job on a machine, and the plans that came next with the reason why they lost.

    Raises:
        UserError: nothing fits; the sentence says the smallest budget that would do. Or `options.together` wants all
            companions, and these do not fit.
    """
    budget = budget_of(hardware, options) if budget is None else budget
    if budget <= 0:
        raise UserError(
            f"Nothing is left of {in_words(hardware.memory_bytes)} after headroom and the driver's own memory; "
            "give a smaller --headroom or a larger --vram."
        )
    if not 0 <= options.prefer <= 1:
        raise UserError(f"A preference of {options.prefer:g} is not possible; give 0 (fastest) to 1 (best quality).")
    found = _solved(job, hardware, options, budget, budget)
    if found is None:
        raise refusal(job, hardware, options, budget)
    room, closest = budget, found
    for _ in range(_TRIES):
        if found[0].short_bytes <= _ROUNDING * budget:
            return found
        closest = min(closest, found, key=lambda one: one[0].short_bytes)
        room -= found[0].short_bytes
        found = _solved(job, hardware, options, room, budget) if room > 0 else None
        if found is None:
            break
    return closest


def _solved(
    job: Job, hardware: HardwareProfile, options: Options, room: int, budget: int
) -> tuple[Plan, list[Alternative]] | None:
    """What `solve` gives, with `room` bytes of the budget; the rest is for what an allocator cannot use."""
    decision = decide(job, hardware, options, room)
    if decision is None:
        return None
    single = msgspec.structs.replace(job, companions=())

    def planned(candidate: Candidate, job: Job) -> Plan:
        shared = in_lockstep(candidate, job, hardware, options, room, decision.memories)
        return _plan(shared, job, hardware, options, room, budget)

    def sketched(candidate: Candidate) -> Plan:  # the run's own peaks take as long as the search
        shared = in_lockstep(candidate, single, hardware, options, room, decision.memories, WORTH)
        return _plan(shared, single, hardware, options, room, budget, peaks=False)

    chosen, alone = decision.chosen, planned(decision.chosen, single)
    best = sorted(decision.runners, key=lambda candidate: candidate.loss)[:_RUNNERS_UP]
    rivals = [(runner, sketched(runner)) for runner in best]
    # what goes through blocks in lockstep and what comes ahead was not known when they were compared
    quicker = [
        (runner, plan)
        for runner, plan in rivals
        if plan.expected_seconds < alone.expected_seconds and (runner.loss <= chosen.loss or options.prefer <= 0)
    ]
    if quicker:
        rivals.append((chosen, alone))
        first = min(quicker, key=lambda rival: rival[1].expected_seconds)
        rivals.remove(first)
        chosen, alone = first[0], planned(first[0], single)
    plan = planned(chosen, job) if job.companions else alone
    alternatives = [_alternative(runner, its, alone) for runner, its in sorted(rivals, key=lambda rival: rival[0].loss)]
    return explained(plan, alone, alternatives, job, hardware), alternatives


def _plan(
    chosen: Candidate,
    job: Job,
    hardware: HardwareProfile,
    options: Options,
    room: int,
    budget: int,
    *,
    peaks: bool = True,
) -> Plan:
    """The plan of a candidate. Without `peaks` those of its phases are what they may take, not what this run takes."""
    machine = machine_for(chosen.stages, job.next, hardware, options, room)
    phases = tuple(_phase(s, chosen, job, machine, hardware, options) for s in range(len(chosen.stages)))
    early = Ahead(phases, 0.0, 0.0, 0.0, ())
    if options.ahead and machine.overlap and not hardware.unified:
        early = load_ahead(phases, chosen, job, machine)
        phases = early.phases
    short = 0
    if peaks:
        phases, short = predicted(phases, chosen.stages, job, hardware, chosen.warm(job), budget)
    else:
        phases = tuple([msgspec.structs.replace(phase, peak_bytes=phase.reserved_bytes) for phase in phases])
    parts = {part.name: part for stage in chosen.stages for part in stage.demands}
    kept: dict[str, int] = {}
    for placement in (placement for phase in phases for placement in phase.placements):
        kept[placement.component] = min(placement.kept_bytes, kept.get(placement.component, placement.kept_bytes))
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
    link_bytes, warm = 0, chosen.warm(job)
    ran = set[str]()
    if not hardware.unified:
        for s, stage in enumerate(chosen.stages):
            for part, placement in zip(stage.demands, phases[s].placements, strict=True):
                if not stage.skipped:
                    had, passes = min(warm.get(part.name, 0), kept[part.name]), phases[s].passes
                    had = kept[part.name] if part.name in ran else had
                    ran.add(part.name)
                    once = part.folded_bytes
                    crossing = max(0, part.bytes - had) + (passes - 1) * placement.streamed_bytes + once
                    link_bytes += crossing // sharing_jobs(phases[s], chosen.together)
    return Plan(
        model=job.model.name,
        gpu=hardware.name,
        budget_bytes=budget,
        components=components,
        phases=phases,
        pinned=not machine.hosted and pins(sum(part.bytes + part.folded_bytes for part in parts.values()), hardware),
        hosted=dict(machine.hosted),
        total_seconds=sum(phase.seconds for phase in phases),
        next_seconds=chosen.found.next_text - early.text,
        expected_seconds=chosen.found.expected - early.now - job.next.text * early.text - job.next.seed * early.seed,
        peak_bytes=max(phase.peak_bytes for phase in phases),
        reserved_bytes=max(phase.reserved_bytes for phase in phases if not phase.skipped),
        peak_weight_bytes=max(phase.peak_bytes - phase.allocator_bytes - phase.activation_bytes for phase in phases),
        short_bytes=short,
        link_bytes=link_bytes,
        loss=chosen.loss,
        together=chosen.together,
        reasons=early.reasons,
    )


def _held(name: str, hardware: HardwareProfile) -> str:
    """The format that weights have on the device: what is not packed is held as it computes, if that is F32."""
    compute = compute_format(hardware)
    return compute if compute == "F32" and not FORMATS[name].held_packed else name


def _phase(
    s: int, chosen: Candidate, job: Job, machine: Machine, hardware: HardwareProfile, options: Options
) -> PhasePlan:
    need, stage, found = job.model.phases[s], chosen.stages[s], chosen.found
    running = {part.name for part in stage.demands}
    others = {name: placed.kept for (_, name), placed in found.placements.items() if name not in running}
    scratch = sum(part.scratch_bytes for part in stage.demands)  # each network has its own
    activation = stage.overhead - scratch
    ways = [found.placements[s, part.name].way for part in stage.demands]
    slot = max(way.slot for way in ways)
    rest = sum(others.values()) + activation + scratch
    room = machine.budget - rest - sum(way.resident for way in ways) - machine.slots * slot
    # components that run together share slots, and each is short: only what runs often alone has its number chosen
    free = options.more_slots and len(ways) == 1 and stage.passes > 1 and may_allocate(MOST_SLOTS * slot, hardware)
    placements, slots = [], machine.slots if slot else 0
    rounds = stage.rounds()
    most = max(rounds)[1]  # what most passes compute
    taken = 0.0
    for part in stage.demands:
        placed = found.placements[s, part.name]
        way, count, one_pass = settled(computing(part, most), placed.way, machine, room, free=free)
        slots = max(slots, count) if slot else 0
        taken += sum(
            passes * (one_pass if factor == most else seconds_of(computing(part, factor), way, machine, count))
            for passes, factor in rounds
        )
        placements.append(
            Placement(
                component=part.name,
                blocks=sum(blocks.count for blocks in part.blocks),
                resident_blocks=way.counts,
                resident_bytes=way.resident,
                streamed_bytes=way.streamed,
                slot_bytes=way.slot,
                kept_bytes=min(placed.kept, way.resident),
                compute_seconds=part.seconds * most,
                pass_seconds=one_pass,
            )
        )
    passes, steps = stage.passes, job.steps_of(need)
    one = sum(placement.pass_seconds for placement in placements)
    if stage.encodes and not stage.skipped:  # the prompts of the jobs that go together are read, too
        texts = texts_of(job, chosen.together)
        passes, taken = passes * texts, taken * texts
    if need.phase is Phase.IMAGE_ENCODE:  # and the pictures that they start from
        passes, taken = passes * chosen.together, taken * chosen.together
    load, again = found.loads[s]
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
        tile=chosen.tile if need.phase in TILED else None,
        seconds=0.0 if stage.skipped else load + taken,
        step_seconds=one if stage.lockstep > 1 else one * stage.passes / steps,
        load_seconds=0.0 if stage.skipped else load,
        next_load_seconds=again,
        kept_bytes=sum(others.values()),
        peak_bytes=0,  # see core.planning.peaks
        reserved_bytes=resident + slots * slot + scratch + activation + sum(others.values()),
        skipped=stage.skipped,
        lockstep=stage.lockstep,
    )


def _alternative(runner: Candidate, plan: Plan, chosen: Plan) -> Alternative:
    return Alternative(
        formats=runner.formats,
        total_seconds=plan.total_seconds,
        next_seconds=plan.next_seconds,
        expected_seconds=plan.expected_seconds,
        peak_bytes=plan.peak_bytes,
        loss=plan.loss,
        why_not=why_not(plan, chosen),
    )
