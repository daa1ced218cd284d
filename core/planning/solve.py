"""Decides a job: formats, then the best residency for each choice of them, then the best under the preference."""

from __future__ import annotations

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase, UserError
from core.planning.ahead import Ahead, load_ahead
from core.planning.choices import machine_of, may_allocate, pins, smallest_budget
from core.planning.cost import Machine
from core.planning.decide import Candidate, Decision, decide
from core.planning.demand import compute_format
from core.planning.explain import explained, why_not
from core.planning.group import sharing_jobs, texts_of
from core.planning.job import Job
from core.planning.lockstep import WORTH, in_lockstep
from core.planning.options import DEFAULT, Options, budget_of
from core.planning.passes import MOST_SLOTS
from core.planning.slots import computing, seconds_of, settled
from core.plans import Alternative, ComponentPlan, PhasePlan, Placement, Plan
from core.precision.formats import FORMATS
from core.sizes import in_words

# Plans to compare the chosen one with.
_RUNNERS_UP = 5


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
    decision = decide(job, hardware, options, budget)
    if decision is None:
        smallest = smallest_budget(job, hardware, options)
        raise UserError(
            f"{job.model.name} at {job.width}x{job.height} needs at least {in_words(smallest)} of device memory and "
            f"{in_words(budget)} may be used; use a smaller size, close other programs or give more with --vram."
        )
    chosen = in_lockstep(decision.chosen, job, hardware, options, budget, decision.memories)
    plan = alone = _plan(chosen, job, hardware, options, budget)
    if chosen.together > 1:
        one = msgspec.structs.replace(job, companions=())
        alone = _plan(
            in_lockstep(decision.chosen, one, hardware, options, budget, decision.memories),
            one,
            hardware,
            options,
            budget,
        )
    best = sorted(decision.runners, key=lambda candidate: candidate.loss)[:_RUNNERS_UP]
    alternatives = [_alternative(runner, alone, decision, job, hardware, options, budget) for runner in best]
    return explained(plan, alone, alternatives, job, hardware), alternatives


def _plan(chosen: Candidate, job: Job, hardware: HardwareProfile, options: Options, budget: int) -> Plan:
    machine = machine_of([stage.demands for stage in chosen.stages], hardware, options, budget)
    phases = tuple(_phase(s, chosen, job, machine, hardware, options) for s in range(len(chosen.stages)))
    early = Ahead(phases, 0.0, 0.0, 0.0, ())
    if options.ahead and machine.overlap and not hardware.unified:
        early = load_ahead(phases, chosen, job, machine)
        phases = early.phases
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
    link_bytes, warm = 0, job.warm_in({part.name: part.format for part in parts.values()})
    if not hardware.unified:
        for s, stage in enumerate(chosen.stages):
            for part, placement in zip(stage.demands, phases[s].placements, strict=True):
                if not stage.skipped:
                    had, passes = min(warm.get(part.name, 0), kept[part.name]), phases[s].passes
                    once = part.folded_bytes
                    crossing = max(0, part.bytes - had) + (passes - 1) * placement.streamed_bytes + once
                    link_bytes += crossing // sharing_jobs(phases[s], chosen.together)
    return Plan(
        model=job.model.name,
        gpu=hardware.name,
        budget_bytes=budget,
        components=components,
        phases=phases,
        pinned=pins(sum(part.bytes + part.folded_bytes for part in parts.values()), hardware),
        total_seconds=sum(phase.seconds for phase in phases),
        next_seconds=chosen.found.next_text - early.text,
        expected_seconds=chosen.found.expected - early.now - job.next.text * early.text - job.next.seed * early.seed,
        peak_bytes=max(phase.peak_bytes for phase in phases if not phase.skipped),
        link_bytes=link_bytes,
        loss=chosen.loss,
        together=chosen.together,
        reasons=early.reasons,
    )


def _held(name: str, hardware: HardwareProfile) -> str:
    """The format that weights have on the device: what is not packed is held as it computes, if that is F32."""
    compute = compute_format(hardware)
    return compute if compute == "F32" and not FORMATS[name].packed else name


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
        tile=chosen.tile if need.phase is Phase.DECODE else None,
        seconds=0.0 if stage.skipped else load + taken,
        step_seconds=one if stage.lockstep > 1 else one * stage.passes / steps,
        load_seconds=0.0 if stage.skipped else load,
        next_load_seconds=again,
        kept_bytes=sum(others.values()),
        peak_bytes=resident + slots * slot + scratch + activation + sum(others.values()),
        skipped=stage.skipped,
        lockstep=stage.lockstep,
    )


def _alternative(
    runner: Candidate,
    chosen: Plan,
    decision: Decision,
    job: Job,
    hardware: HardwareProfile,
    options: Options,
    budget: int,
) -> Alternative:
    alone = msgspec.structs.replace(job, companions=())
    guided = in_lockstep(runner, alone, hardware, options, budget, decision.memories, WORTH)
    plan = _plan(guided, alone, hardware, options, budget)
    return Alternative(
        formats=runner.formats,
        total_seconds=plan.total_seconds,
        next_seconds=plan.next_seconds,
        expected_seconds=plan.expected_seconds,
        peak_bytes=plan.peak_bytes,
        loss=plan.loss,
        why_not=why_not(plan.expected_seconds, runner.loss, chosen),
    )
