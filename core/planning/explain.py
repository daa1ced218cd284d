"""A plan in words: why each format, why each byte is where it is, and why the next best plan lost."""

from __future__ import annotations

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase
from core.planning import chances
from core.planning.demand import largest_tensor
from core.planning.job import Job
from core.planning.policy import sixteen_bit
from core.plans import Alternative, ComponentPlan, PhasePlan, Plan
from core.precision.formats import FORMATS
from core.sizes import in_words

_MADE = {"image": "pictures", "video": "clips", "audio": "sounds"}
_KINDS = {Phase.ENCODE: "text encoder", Phase.DENOISE: "transformer", Phase.DECODE: "VAE"}


def explained(plan: Plan, alone: Plan, alternatives: list[Alternative], job: Job, hardware: HardwareProfile) -> Plan:
    """A plan with its reasons: those of the whole, and one for each component.

    Args:
        alone: the plan of this job without companions, as alternatives are; the plan itself where it has none.
    """
    components = tuple(
        msgspec.structs.replace(component, reason=_of_component(alone, component, job, alternatives))
        for component in plan.components
    )
    reasons = tuple(explain(plan, alone, alternatives, job, hardware))
    return msgspec.structs.replace(plan, components=components, reasons=reasons)


def explain(plan: Plan, alone: Plan, alternatives: list[Alternative], job: Job, hardware: HardwareProfile) -> list[str]:
    """One sentence for each decision, the most important first."""
    reasons = [_residency(plan, phase, hardware) for phase in plan.phases if phase.phase is Phase.DENOISE]
    reasons += [_lockstep(plan, phase, alone, job) for phase in plan.phases if phase.lockstep > 1]
    reasons += plan.reasons  # what comes ahead (core.planning.ahead)
    packed = [component for component in plan.components if FORMATS[component.format].packed]
    reasons += [_format(alone, component, job, alternatives) for component in packed]
    reasons += _between(plan, job)
    reasons += [words] if (words := chances.words(job.next)) else []
    reasons += [_tiled(phase, phase.tile, job, hardware) for phase in plan.phases if phase.tile is not None]
    reasons += [
        f"{in_words(component.folded_bytes)} of modulation weights of the {component.name} stay off the device: their "
        "outputs depend only on the timestep and the text, and are computed once"
        for component in plan.components
        if component.folded_bytes
    ]
    if job.exact:
        reasons.append("what a pass needs beside its weights was counted in a dry run at exactly this size")
    if job.encoded:
        reasons.append("the encoding of this text is cached: no text encoder is needed")
    return reasons


def why_not(expected: float, loss: float, chosen: Plan) -> str:
    """Why a plan of so many expected seconds lost against the chosen one.

    That has the best quality within the time that the preference allows.
    """
    slower, chosen_loss = expected / chosen.expected_seconds - 1, chosen.loss
    if loss < chosen_loss:
        return f"better quality, but {_share(slower)} slower over this prompt and the next"
    if loss > chosen_loss:
        return f"coarser weights, and only {_share(-slower)} faster" if slower < 0 else "coarser weights and not faster"
    return f"the same quality, {_share(slower)} slower"


def seconds(value: float) -> str:
    """Seconds for people, e.g. 0.35 s, 12 s, 3 min 20 s."""
    if value >= 120:
        return f"{int(value // 60)} min {round(value % 60)} s"
    return f"{value:.0f} s" if value >= 20 else f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def _share(value: float) -> str:
    if value < 0.001:
        return "less than 0.1%"
    return f"{value:.0%}" if value >= 0.01 else f"{value:.1%}"


def _residency(plan: Plan, phase: PhasePlan, hardware: HardwareProfile) -> str:
    name = phase.placements[0].component
    held, activations = in_words(phase.resident_bytes), in_words(phase.activation_bytes)
    if not phase.streamed_bytes:
        return f"the whole {name} ({held}) fits beside its activations ({activations}) in {phase.label}"
    rate = hardware.link_rate(pinned=plan.pinned)
    copying, computing = phase.streamed_bytes / rate, phase.placements[0].compute_seconds
    streams = f"{in_words(phase.streamed_bytes)} of the {name} stream in every pass and {held} stay"
    if copying <= computing * 1.02:
        return f"{streams}: copying takes {seconds(copying)} and hides behind {seconds(computing)} of computing"
    pace = f"the link takes {seconds(copying)} a pass and computing {seconds(computing)}"
    return f"{streams}: {pace}, so the link sets the pace"


def _lockstep(plan: Plan, phase: PhasePlan, alone: Plan, job: Job) -> str:
    """What calls that go through each block together save."""
    once, apart = phase.streamed_bytes, phase.streamed_bytes * phase.lockstep
    crosses = f"{in_words(once)} instead of {in_words(apart)} cross the link in a step"
    if plan.together == 1:
        return f"the guided and the unguided pass share each streamed block: {crosses}"
    both = ", each guided and unguided," if phase.lockstep == 2 * plan.together else ""
    this = f"{seconds(plan.total_seconds)} instead of {seconds(alone.total_seconds)}"
    return (
        f"{plan.together} queued {_MADE.get(job.model.makes, 'jobs')}{both} go through each streamed block of the "
        f"{phase.placements[0].component} together: {crosses} of all of them, and this one is there after {this}"
    )


def _tiled(phase: PhasePlan, tile: int, job: Job, hardware: HardwareProfile) -> str:
    """Why a VAE runs in tiles."""
    words = f"{_kind(phase)} runs in tiles of {tile * job.model.defaults.spatial} pixels: whole it would need"
    need = next(need for need in job.model.phases if need.label == phase.label)
    tensor = max(largest_tensor(job.model.components[name], need, job, hardware) for name in need.components)
    if hardware.largest_allocation_bytes is not None and tensor > hardware.largest_allocation_bytes:
        allowed = in_words(hardware.largest_allocation_bytes)
        return f"{words} {in_words(tensor)} in one allocation, and the device allows {allowed}"
    return f"{words} more memory than is left beside what stays warm"


def _of_component(plan: Plan, component: ComponentPlan, job: Job, alternatives: list[Alternative]) -> str:
    """Why this component has its format, and whether it stays."""
    if FORMATS[component.format].packed:
        words = _format(plan, component, job, alternatives)
    elif component.format == "F32" and _source(component, job) != "F32":
        words = f"the {component.name} is held as it computes, in F32 ({in_words(component.bytes)})"
    else:
        words = f"the {component.name} keeps its source precision, {component.format} ({in_words(component.bytes)})"
    if component.kept_bytes == component.bytes:
        return f"{words}; it stays on the device between prompts"
    if component.kept_bytes:
        return f"{words}; {in_words(component.kept_bytes)} of it stay on the device between prompts"
    return f"{words}; it leaves the device after its phase, for what other phases need"


def _source(component: ComponentPlan, job: Job) -> str:
    return sixteen_bit(job.model.components[component.name].source_format)


def _format(plan: Plan, component: ComponentPlan, job: Job, alternatives: list[Alternative]) -> str:
    role = next(phase.phase for phase in plan.phases if any(p.component == component.name for p in phase.placements))
    bits = FORMATS[component.format].bits
    words = (
        f"the {component.name} is held as {component.format} ({in_words(component.bytes)}, {bits:.1f} bits a weight)"
    )
    if role is Phase.ENCODE:
        return (
            f"{words} instead of {_source(component, job)}: a text encoder is the safe place to save, and the "
            "transformer can use what it frees"
        )
    finer = [a for a in alternatives if FORMATS[a.formats[component.name]].bits > bits]
    if not finer:
        return f"{words}: finer than that does not pay on this card"
    best = min(finer, key=lambda a: a.expected_seconds)
    return (
        f"{words}: {best.formats[component.name]} would take {seconds(best.total_seconds)} instead of "
        f"{seconds(plan.total_seconds)}, and {seconds(best.next_seconds)} instead of {seconds(plan.next_seconds)} for "
        "the next prompt"
    )


def _between(plan: Plan, job: Job) -> list[str]:
    """What stays between jobs, and what the next prompt takes."""
    kept = [component for component in plan.components if component.kept_bytes]
    gone = [component for component in plan.components if component.kept_bytes < component.bytes]
    words = []
    if not gone:
        total = in_words(sum(component.kept_bytes for component in kept))
        words.append(f"everything stays on the device between prompts ({total}): the next prompt loads nothing")
    else:
        stays = " and ".join(
            f"the {c.name} ({in_words(c.bytes)})"
            if c.kept_bytes == c.bytes
            else f"{in_words(c.kept_bytes)} of the {in_words(c.bytes)} of the {c.name}"
            for c in kept
        )
        leaves = in_words(sum(component.bytes - component.kept_bytes for component in gone))
        words.append(
            f"between prompts {stays or 'nothing'} {'stays' if len(kept) < 2 else 'stay'} on the device; {leaves} come "
            "over the link again"
        )
    words.append(f"the next prompt with other words takes about {seconds(plan.next_seconds)}")
    return words


def _kind(phase: PhasePlan) -> str:
    return f"the {_KINDS.get(phase.phase, phase.label)}"
