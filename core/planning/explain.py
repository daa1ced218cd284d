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
_HARDLY = 0.001  # a share of the seconds that nobody notices
_KINDS = {
    Phase.ENCODE: "text encoder",
    Phase.IMAGE_ENCODE: "VAE",
    Phase.DENOISE: "transformer",
    Phase.DECODE: "VAE",
}


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
    leaves = any(component.kept_bytes < component.bytes for component in plan.components)
    reasons += [_hosted(plan)] if plan.hosted and leaves else []
    reasons += plan.reasons  # what comes ahead (core.planning.ahead)
    packed = [component for component in plan.components if FORMATS[component.format].held_packed]
    reasons += [_format(alone, component, job, alternatives) for component in packed]
    reasons += _between(plan, job)
    reasons += [words] if (words := chances.words(job.next)) else []
    tiled = [_tiled(phase, phase.tile, job, hardware) for phase in plan.phases if phase.tile is not None]
    reasons += tiled[-1:]  # both ways in the same tiles
    reasons += [
        f"{in_words(component.folded_bytes)} of modulation weights of the {component.name} stay off the device: their "
        "outputs depend only on the timestep and the text, and are computed once"
        for component in plan.components
        if component.folded_bytes
    ]
    reasons += _anew(plan, job)
    if job.exact:
        reasons.append("what a pass needs beside its weights was counted in a dry run at exactly this size")
    if job.encoded:
        reasons.append("the encoding of this text is cached: no text encoder is needed")
    if job.started:
        reasons.append(job.started)
    if job.pictured:
        reasons.append("the latents of this picture are cached: it is not encoded again")
    return reasons


def _anew(plan: Plan, job: Job) -> list[str]:
    """What lies on the device and is of no use, being held otherwise."""
    folded = {component.name for component in plan.components if component.folded_bytes}
    useful = job.warm_in({component.name: component.format for component in plan.components}, folded)
    runs = {placement.component for phase in plan.phases if not phase.skipped for placement in phase.placements}
    words = []
    for component in plan.components:
        size = job.warm.get(component.name, 0)
        if size and component.name in runs and component.name not in useful:
            now = f"as {component.format}, {'without' if component.name in folded else 'with'} its modulation"
            words.append(f"the {component.name} is brought anew, {now}: {in_words(size)} are on the device otherwise")
    return words


def why_not(plan: Plan, chosen: Plan) -> str:
    """Why a plan lost against the chosen one, which has the best quality within the time that the preference allows."""
    slower = plan.expected_seconds / chosen.expected_seconds - 1
    if plan.loss < chosen.loss:
        return f"better quality, but {_share(slower)} slower over this prompt and the next"
    if plan.loss > chosen.loss:
        if slower >= 0:
            return "coarser weights and not faster"
        if plan.next_seconds >= chosen.next_seconds:
            return f"coarser weights; {_share(-slower)} faster with its first loading, and not afterwards"
        if slower > -_HARDLY:
            return "coarser weights, and hardly faster"
        return f"coarser weights, and only {_share(-slower)} faster"
    return f"the same quality, {_share(slower)} slower"


def seconds(value: float) -> str:
    """Seconds for people, e.g. 4 ms, 0.35 s, 12 s, 3 min 20 s, 5 h 12 min."""
    whole = round(value)
    if whole >= 7200:
        minutes = round(value / 60)
        return f"{minutes // 60} h {minutes % 60} min"
    if whole >= 120:
        return f"{whole // 60} min {whole % 60} s"
    if value < 0.00995:
        return "0 s" if not value else f"{value * 1000:.0f} ms" if value >= 0.0005 else "less than 1 ms"
    return f"{value:.0f} s" if value >= 19.95 else f"{value:.1f} s" if value >= 0.995 else f"{value:.2f} s"


def _share(value: float) -> str:
    if value < _HARDLY:
        return "less than 0.1%"
    return f"{value:.0%}" if value >= 0.01 else f"{value:.1%}"


def _residency(plan: Plan, phase: PhasePlan, hardware: HardwareProfile) -> str:
    name = phase.placements[0].component
    held, activations = in_words(phase.resident_bytes), in_words(phase.activation_bytes)
    if not phase.streamed_bytes:
        return f"the whole {name} ({held}) fits beside its activations ({activations}) in {phase.label}"
    rate = hardware.link_rate(pinned=plan.pinned)
    read = max(0, phase.streamed_bytes - plan.hosted.get(name, phase.streamed_bytes))
    copying = (phase.streamed_bytes - read) / rate + read / min(rate, hardware.disk_rate)
    computing = phase.placements[0].compute_seconds
    streams = f"{in_words(phase.streamed_bytes)} of the {name} stream in every pass and {held} stay"
    if copying <= computing * 1.02:
        return f"{streams}: copying takes {seconds(copying)} and hides behind {seconds(computing)} of computing"
    what = "the disk" if read else "the link"
    pace = f"{what} takes {seconds(copying)} a pass and computing {seconds(computing)}"
    return f"{streams}: {pace}, so {what} sets the pace"


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


def _hosted(plan: Plan) -> str:
    """What stays in host memory where it does not take all."""
    total = sum(component.bytes + component.folded_bytes for component in plan.components)
    stays = [f"{in_words(size)} of the {name}" for name, size in plan.hosted.items() if size]
    takes = in_words(sum(plan.hosted.values()))
    return (
        f"host memory takes {takes} of {in_words(total)}, what is needed most often for each byte: "
        f"{' and '.join(stays) or 'nothing'}; the rest is read from the disk whenever it is needed"
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
    source = _source(component, job)
    if FORMATS[component.format].held_packed:
        words = _format(plan, component, job, alternatives)
    elif FORMATS[source].held_packed:
        held = f"{component.format} ({in_words(component.bytes)})"
        words = f"the {component.name} is decoded from {source} when it is read, and held in {held}"
    elif component.format == "F32" and source != "F32":
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
    if component.format == _source(component, job):
        return f"{words} as its file has it: more bits would not make it better"
    if role is Phase.ENCODE:
        return (
            f"{words} instead of {_source(component, job)}: a text encoder is the safe place to save, and the "
            "transformer can use what it frees"
        )
    finer = [a for a in alternatives if FORMATS[a.formats[component.name]].bits > bits]
    if not finer:
        return f"{words}: finer than that does not pay on this card"
    best = min(finer, key=lambda a: a.expected_seconds)
    first, then = _against(best.total_seconds, plan.total_seconds), _against(best.next_seconds, plan.next_seconds)
    if not first and not then:
        slower = _share(max(0.0, best.expected_seconds / plan.expected_seconds - 1))
        return f"{words}: {best.formats[component.name]} would be {slower} slower over this prompt and the next"
    both = f"{first or 'as long'}, and {then or 'as long'} for the next prompt"
    return f"{words}: {best.formats[component.name]} would take {both}"


def _against(other: float, ours: float) -> str:
    """Seconds of another plan beside ours; empty where they read the same."""
    one, two = seconds(other), seconds(ours)
    return f"{one} instead of {two}" if one != two else ""


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
