"""What happened in device memory while a picture was made: the engine's ledger, laid over the plan's phases. No Qt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from app.outline import OTHERS, Layers, Outline, Span, Steps
from core.messages import (
    Cancelled,
    EngineStarting,
    EngineStopped,
    Event,
    Failed,
    Finished,
    LedgerRecord,
    Phase,
    Planned,
    Progress,
    Ready,
    Request,
    Result,
    SetAside,
    Started,
    WarmedUp,
)
from core.plans import Plan

# The phases that a plan speaks of; what comes before one of them, such as reading its weights, is part of it.
_PLANNED = (Phase.ENCODE, Phase.IMAGE_ENCODE, Phase.DENOISE, Phase.DECODE)
# A phase that takes longer than planned is drawn as nearly full until it is over.
_NEARLY = 0.97
_SHORTEST = 1e-6
_REMEMBERED = 16
# Free memory always moves a little; a budget that differs by less is the same.
_SAME_BUDGET = 0.02


@dataclass(frozen=True)
class Stretch:
    """When a phase really ran, by the wall clock; `end` is None while it does."""

    phase: Phase
    begin: float
    end: float | None = None


@dataclass
class Run:
    """One full picture being made, or made.

    `held` is what lay on the device when it began, by component; `held_as` how (see Runs.held_as).
    """

    request: Request
    begin: float
    held: dict[str, int]
    held_as: tuple[tuple[str, str, bool], ...] = ()
    plan: Plan | None = None  # the engine's own
    outline: Outline | None = None  # what its records are laid over
    records: list[LedgerRecord] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)
    step: int = 0
    steps: int = 0
    stepped: float = 0.0  # when the newest step was told
    result: Result | None = None

    @property
    def over(self) -> bool:
        """Whether the picture is there."""
        return self.result is not None


class Runs:
    """The run in progress and the last finished one, followed through the engine's events."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._held: dict[tuple[str, str], int] = {}  # by model and component, drafts and warm-ups included
        self._ways: dict[tuple[str, str], tuple[str, bool]] = {}  # format, and whether without modulation
        self._waiting_since = 0.0  # since when the next phase's weights are awaited
        self.current: Run | None = None
        self.last: Run | None = None
        self.taught = 0  # runs that taught the planner how long things take
        self.planned: list[tuple[Request, Plan]] = []  # the engine's own, newest first
        self.hardware = b""  # what the engine measured, as core.hardware.told has it
        self.budget_bytes: int | None = None  # what it may use of the device, as it said last
        self._started: Request | None = None

    def take(self, event: Event) -> bool:
        """Take in one event; whether what is shown of memory changed."""
        match event:
            case EngineStarting() | EngineStopped():
                self._held = {}
                self.current = None
                return True
            case Ready():
                self.hardware, self.budget_bytes = event.hardware, event.budget_bytes
            case Started():
                self._start(event)
            case Planned():
                self._plan(event)
            case LedgerRecord():
                self._record(event)
            case Progress() if self.current is not None and self.current.request.id == event.id:
                self._progress(self.current, event)
            case Finished() if self.current is not None and self.current.request.id == event.id:
                self._close(self.current)
                self.current.result = event.result
                self.last, self.current = self.current, None
                self.taught += 1
            case WarmedUp(problem=""):
                self.taught += 1
            case Failed() | Cancelled() | SetAside() if self.current and self.current.request.id == event.id:
                self.current = None
            case _:
                return False
        return True

    def held(self, model: str) -> dict[str, int]:
        """Bytes on the device by component of a model; what is there of others comes as one."""
        own = {component: size for (name, component), size in self._held.items() if name == model and size > 0}
        others = sum(size for (name, _), size in self._held.items() if name != model)
        return own | ({OTHERS: others} if others > 0 else {})

    def held_as(self, model: str) -> tuple[tuple[str, str, bool], ...]:
        """(component, format, whether without its modulation) of what of a model is on the device."""
        ways = [(name, *way) for (owner, name), way in self._ways.items() if owner == model]
        return tuple(sorted(way for way in ways if self._held.get((model, way[0]))))

    def loaded(self, model: str) -> frozenset[str]:
        """Components of a model that this engine has read from their files, wherever they are now."""
        return frozenset(component for name, component in self._held if name == model)

    @property
    def now(self) -> float:
        """The present moment, by the clock that runs are followed with."""
        return self._clock()

    @property
    def resident_bytes(self) -> int:
        """Bytes on the device now."""
        return sum(self._held.values())

    # -- one event each ----------------------------------------------------------------------------------------------

    def _start(self, event: Started) -> None:
        if self.current is not None and event.request.id != self.current.request.id:
            return  # made beside it, as its plan says
        self._started = event.request
        if event.request.draft:
            return
        now = self._clock()
        self._waiting_since = now
        model = event.request.model
        self.current = Run(event.request, now, self.held(model), self.held_as(model))

    def _plan(self, event: Planned) -> None:
        request = self._started
        if request is None or request.id != event.id:
            return
        others = [entry for entry in self.planned if entry[0].id != event.id]
        self.planned = [(request, event.plan), *others[: _REMEMBERED - 1]]
        budget, known = event.plan.budget_bytes, self.budget_bytes
        if known is not None and request.how.headroom_bytes is None and abs(budget - known) > _SAME_BUDGET * known:
            self.budget_bytes = budget
        if self.current is not None and self.current.request.id == event.id:
            self.current.plan = event.plan

    def _record(self, event: LedgerRecord) -> None:
        if not event.component:
            return
        key = (event.model, event.component)
        self._held[key] = max(0, self._held.get(key, 0) + event.change)
        self._ways[key] = (event.format, event.folded)
        if self.current is not None:
            self.current.records.append(event)

    def _progress(self, run: Run, event: Progress) -> None:
        now = self._clock()
        open_phase = run.stretches[-1].phase if run.stretches and run.stretches[-1].end is None else None
        if event.phase is not open_phase and open_phase is not None:
            self._close(run)
            self._waiting_since = now
        if event.phase in _PLANNED and event.phase is not open_phase:
            run.stretches.append(Stretch(event.phase, self._waiting_since))
        if event.phase is Phase.DENOISE:
            if event.step != run.step:
                run.stepped = now
            run.step, run.steps = event.step, event.steps

    def _close(self, run: Run) -> None:
        if run.stretches and run.stretches[-1].end is None:
            run.stretches[-1] = replace(run.stretches[-1], end=self._clock())

    # -- what is drawn of it -----------------------------------------------------------------------------------------

    def happened(self, run: Run, outline: Outline) -> tuple[Layers | None, float]:
        """(what really lay on the device, the present moment), both on the outline's time axis.

        Each phase's real time is stretched or squeezed to its planned one: what is compared is what lies where in
        which phase. A phase that was left out leaves a gap.
        """
        now = self._clock()
        builder, at = Steps(), 0.0
        held, taken = dict(run.held), 0
        stretches = [*run.stretches, *self._awaited(run)]
        for number, stretch in enumerate(stretches):
            place = outline.range_of(stretch.phase)
            if place is None:
                continue
            begin, end = place
            if begin > at + _SHORTEST:
                builder.add(at, {})
            real_end = now if stretch.end is None else stretch.end
            length = _length(run, stretch, end - begin, now)
            last = number == len(stretches) - 1
            builder.add(begin, held)
            while taken < len(run.records) and (run.records[taken].seconds < real_end or last):
                record = run.records[taken]
                taken += 1
                _apply(held, record, run.request.model)
                share = min(1.0, max(0.0, (record.seconds - stretch.begin) / length))
                builder.add(begin + share * (end - begin), held)
            at = begin + min(1.0, (real_end - stretch.begin) / length) * (end - begin)
        layers = builder.layers(at)
        return (layers if layers.times and at > 0 else None), at

    def _awaited(self, run: Run) -> list[Stretch]:
        """The phase whose weights are being read: the one after the last."""
        if run is not self.current or (run.stretches and run.stretches[-1].end is None):
            return []
        pictured = run.request.init is not None
        planned = [phase for phase in _PLANNED if pictured or phase is not Phase.IMAGE_ENCODE]
        following = planned.index(run.stretches[-1].phase) + 1 if run.stretches else 0
        return [Stretch(planned[following], self._waiting_since)] if following < len(planned) else []


def measured_frame(run: Run, now: float) -> Outline | None:
    """A time axis for a run that nobody planned: its phases as they were, each as long as it took."""
    spans: list[Span] = []
    for stretch in run.stretches:
        begin = spans[-1].end if spans else 0.0
        seconds = max(_SHORTEST, (now if stretch.end is None else stretch.end) - stretch.begin)
        spans.append(Span(stretch.phase, str(stretch.phase), begin, seconds))
    return Outline(None, tuple(spans), None) if spans else None


def _length(run: Run, stretch: Stretch, planned: float, now: float) -> float:
    """Seconds of a phase: measured, or, while it runs, what its steps or else the plan let expect."""
    if stretch.end is not None:
        return max(_SHORTEST, stretch.end - stretch.begin)
    elapsed = now - stretch.begin
    if stretch.phase is Phase.DENOISE and run.step and run.steps:
        planned = (run.stepped - stretch.begin) * run.steps / run.step
    return max(_SHORTEST, planned, elapsed / _NEARLY)


def _apply(held: dict[str, int], record: LedgerRecord, model: str) -> None:
    name = record.component if record.model == model else OTHERS
    held[name] = max(0, held.get(name, 0) + record.change)
