"""The decision for a job: formats, residency, phases, predicted bytes and seconds, and a reason for each.

Plain data that planning makes, the engine carries out and the window draws.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Phase(StrEnum):
    """The parts of a job that do not need each other's weights, in the order in which they run."""

    LOAD = "load"
    ENCODE = "encode"
    IMAGE_ENCODE = "image encode"
    DENOISE = "denoise"
    DECODE = "decode"
    SAVE = "save"


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One component in one phase: which bytes are resident and which are streamed in every pass.

    `resident_blocks` counts blocks of each size (largest first) that stay for the phase, `kept_bytes` what of it stays
    through the other phases and after the job. `slot_bytes` is the largest streamed block.
    """

    component: str
    blocks: int
    resident_blocks: tuple[int, ...]
    resident_bytes: int
    streamed_bytes: int
    slot_bytes: int
    kept_bytes: int
    compute_seconds: float  # of one pass with everything resident
    pass_seconds: float  # of one pass as placed


class PhasePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One phase: what it runs, for how long, and what lies on the device meanwhile.

    `load_seconds` is what the first pass takes longer because weights arrive, in this job; `next_load_seconds` in the
    next one.

    `peak_bytes` is predicted for this run: the most on the device in the phase, as torch's allocator counts it where it
    counts (without the driver's context), else weights, slots, scratch and activations. It counts what is there and
    not what is yet to come. `beside` has the bytes of components that do not run in it; `allocator_bytes` are what the
    allocator keeps beyond what the phase asks for (less than 0 where it needs less than was reserved).
    `reserved_bytes` is what the budget has for the phase, whichever prompt it runs for: resident weights, slots,
    scratch, activations and all that other phases keep.

    `passes` is how often the streamed blocks cross the link. With a `lockstep` of more than 1 so many calls of the
    network go through each streamed block before it leaves its slot: the guided and the unguided call of a step, of
    each of the jobs that are made together (Plan.together). `seconds` are then those of all the jobs, `step_seconds`
    of a step of all of them, and `activation_bytes` count what every call keeps while it waits. An encode phase that
    reads the prompts of those jobs has a pass for each.

    `ahead` counts bytes of later phases' resident weights, by component, that are copied in this phase when its own
    have arrived, in whole slabs; both peaks count them. Up to what a component keeps they may wait through other
    phases; more than that is needed in the very next phase that runs.
    """

    phase: Phase
    label: str
    placements: tuple[Placement, ...]
    steps: int
    passes: int
    slots: int
    scratch_bytes: int
    activation_bytes: int
    tile: int | None  # edge in latent positions; None: whole
    seconds: float
    step_seconds: float
    load_seconds: float
    next_load_seconds: float
    kept_bytes: int  # of components that do not run in this phase
    peak_bytes: int
    reserved_bytes: int = 0
    allocator_bytes: int = 0
    beside: dict[str, int] = {}
    skipped: bool = False
    lockstep: int = 1
    ahead: dict[str, int] = {}

    @property
    def resident_bytes(self) -> int:
        """Weights of the running components that stay for the phase."""
        return sum(placement.resident_bytes for placement in self.placements)

    @property
    def streamed_bytes(self) -> int:
        """Bytes that cross the link in every pass."""
        return sum(placement.streamed_bytes for placement in self.placements)


class ComponentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The format of one component and why."""

    name: str
    format: str
    bytes: int
    kept_bytes: int
    folded_bytes: int
    loss: float
    reason: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was decided.

    `total_seconds` is this job with its loading, `next_seconds` the next prompt with other words; `expected_seconds` is
    what was minimised: this job and the next, weighted by their chances. `together` jobs are denoised at the same time:
    this one and the first of its companions (core.planning.job). Then `total_seconds` is until this job's picture, and
    `link_bytes` this job's share of what crosses the link: that of a phase which they share, divided by their number.

    `peak_bytes` is predicted for this run, `reserved_bytes` what the budget must have for it and the next, and
    `peak_weight_bytes` the part of a run's peak that the ledger counts: weights, slots and scratch. An allocator that
    cuts memory up may lack `short_bytes` for weights; more than rounding only where nothing helps.

    `hosted` counts bytes of each component that stay in host memory, where it does not take all; the rest is read from
    the disk each time.
    """

    model: str
    gpu: str
    budget_bytes: int
    components: tuple[ComponentPlan, ...]
    phases: tuple[PhasePlan, ...]
    pinned: bool
    total_seconds: float
    next_seconds: float
    expected_seconds: float
    peak_bytes: int
    reserved_bytes: int = 0
    peak_weight_bytes: int = 0
    short_bytes: int = 0
    link_bytes: int
    loss: float
    reasons: tuple[str, ...] = ()
    together: int = 1
    hosted: dict[str, int] = {}

    def component(self, name: str) -> ComponentPlan:
        """The plan of one component by name."""
        return next(component for component in self.components if component.name == name)


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that lost, in short, and why."""

    formats: dict[str, str]
    total_seconds: float
    next_seconds: float
    expected_seconds: float
    peak_bytes: int
    loss: float
    why_not: str


def formats_of(plan: Plan) -> dict[str, str]:
    """The format of each component."""
    return {component.name: component.format for component in plan.components}


def computing_seconds(phase: PhasePlan) -> float:
    """Seconds of a step for what has steps, else of a pass, without its loading: what one run can tell the next."""
    if phase.phase is Phase.DENOISE:
        return phase.step_seconds
    return (phase.seconds - phase.load_seconds) / max(1, phase.passes)
