"""Makes one picture: plans it, holds and runs each phase as planned, and plans anew when memory changes under way."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from PIL import Image

from core.generation import outputs
from core.generation.conditioning import ConditioningCache
from core.generation.interrupt import Interrupt
from core.generation.run import Run
from core.hardware.interface import Accelerator
from core.library import metadata
from core.messages import (
    Event,
    Finished,
    Phase,
    Planned,
    Prediction,
    Preview,
    Progress,
    Request,
    Started,
    UserError,
)
from core.models import catalogue
from core.models.check import resolve
from core.plans import PhasePlan, Plan, formats_of
from core.scheduler.ahead import LATENCY_SHARE, encode_ahead, pays
from core.scheduler.loaded import LoadedModels, Prepare
from core.scheduler.pace import Pace
from core.scheduler.waiting import Waiting
from core.sizes import in_words

# Previews are painted at most this often: more cannot be seen, and painting takes time from the steps.
PREVIEW_INTERVAL_SECONDS = 0.05
# By which share of all memory a plan asks for less each time when memory runs out although the plan said it would not.
SQUEEZE = 0.1
# Less of all memory than this is what a run itself keeps between two steps, and what drivers take for themselves.
_UNNOTICED = 0.015


class Studio(NamedTuple):
    """What every picture is made with."""

    accelerator: Accelerator
    models: LoadedModels
    encodings: ConditioningCache
    interrupt: Interrupt
    waiting: Waiting
    emit: Callable[[Event], None]
    prepare: Prepare


class Making:
    """One attempt at a picture. `run` is called once."""

    def __init__(self, asked: Request, studio: Studio, shortage: int = 0, reasons: tuple[str, ...] = ()) -> None:
        """Nothing happens yet.

        Args:
            shortage: bytes that are planned for less than there seem to be.
            reasons: what the person should know of earlier attempts.
        """
        self._asked, self._studio, self._shortage, self._reasons = asked, studio, shortage, reasons
        self._plan: Plan
        self._current = 0  # the number of the phase that runs
        self._had = 0  # what there was to use when it began
        self._changes: list[str] = []  # why it was planned anew

    def run(self) -> Finished:
        """Make it. Raises what the phases raise, torch.OutOfMemoryError when giving way did not help."""
        begin = time.monotonic()
        accelerator, models, encodings, interrupt, _, emit, prepare = self._studio
        info = catalogue.find(self._asked.model)
        request = self._request = resolve(self._asked, info)
        emit(Started(request.id, request))
        emit(Progress(request.id, Phase.LOAD))
        if request.out:
            metadata.check_writable(Path(request.out))
        models.start_run()
        model = self._model = models.get(info, request.id)
        budget = models.budget_of(request) - self._shortage
        plan = models.plan(model, request, budget)
        run = Run(request, model.pipeline, model.previewer, interrupt, formats_of(plan))
        cache = encodings if request.how.cache else None
        if cache is not None and run.recall_encoding(cache):
            # the encoders' formats are those that the encoding was made with; the rest may be better off without them
            encoders = {p.component for phase in plan.phases if phase.phase is Phase.ENCODE for p in phase.placements}
            decided = {name: wanted for name, wanted in formats_of(plan).items() if name in encoders}
            plan = models.plan(model, request, budget, encoded=True, formats=decided)
        self._tell(plan, *self._reasons, *plan.reasons)
        run.reasons.extend(self._plan.reasons)
        self._pace = Pace(plan)
        planned = {phase.label: phase.seconds for phase in plan.phases if not phase.skipped}
        predicted = Prediction(plan.total_seconds, plan.peak_bytes, planned)
        seconds = {phase.phase: 0.0 for phase in plan.phases}
        loading = time.monotonic() - begin
        image = None
        for self._current in range(len(plan.phases)):
            phase = self._phase
            if phase.skipped:
                continue
            asked_for = time.monotonic()
            # encoders and VAEs keep caches between their layers, so that a block of theirs cannot simply run again
            give_way = self._give_way if phase.phase is Phase.DENOISE else None
            with models.hold(model, self._plan, phase, request.id, prepare, give_way):
                held = time.monotonic()
                self._had = models.budget_of(request)
                with accelerator.computing():
                    image = self._run_phase(phase.phase, run, cache)
                accelerator.synchronize()
                seconds[phase.phase] = time.monotonic() - held
                if phase.phase is Phase.ENCODE and cache is not None and not request.draft and pays(plan, phase):
                    self._encode_ahead(cache)
            loading += held - asked_for
        assert image is not None  # the last phase is always DECODE
        total = time.monotonic() - begin
        times = {"load": loading, **{str(phase): value for phase, value in seconds.items()}, "total": total}
        facts = outputs.Facts(
            accelerator=accelerator,
            budget_bytes=plan.budget_bytes,
            peak_device_bytes=models.peak_bytes,
            link_bytes=models.link_bytes,
            seconds=times,
            guidance=run.guidance,
            scheduler=type(model.pipeline.modular.scheduler).__name__,
            predicted=predicted,
            components=models.use(model, self._plan),
            reasons=[*run.reasons, *self._changes],
            tiling=self._tiling(),
        )
        if not self._changes:
            self._learn(seconds, total)
        if request.out:
            emit(Progress(request.id, Phase.SAVE))
        return outputs.finish(request, info, image, facts)

    # -- phases -----------------------------------------------------------------------------------------------------

    @property
    def _phase(self) -> PhasePlan:
        return self._plan.phases[self._current]

    def _run_phase(self, phase: Phase, run: Run, cache: ConditioningCache | None) -> Image.Image | None:
        request, steps = run.request, run.request.steps or 0
        self._studio.emit(Progress(request.id, phase, 0, steps, self._pace.left(phase, steps)))
        match phase:
            case Phase.ENCODE:
                run.encode(cache)
            case Phase.DENOISE:
                self._pace.begin()
                run.denoise(partial(self._on_step, steps))
            case _:
                return run.decode(self._phase.tile)
        return None

    def _on_step(self, steps: int, step: int, paint: Callable[[], tuple[int, int, bytes]]) -> None:
        pace, emit, name = self._pace, self._studio.emit, self._request.id
        pace.lap()
        emit(Progress(name, Phase.DENOISE, step, steps, pace.left(Phase.DENOISE, steps - step)))
        if step < steps:
            self._look_at_memory()
            if pace.since_preview() >= PREVIEW_INTERVAL_SECONDS:
                emit(Preview(name, step, steps, *paint()))
                pace.painted()

    def _tiling(self) -> str:
        """How it was decoded, in words."""
        tile = next(phase.tile for phase in self._plan.phases if phase.phase is Phase.DECODE)
        return "off" if tile is None else str(self._studio.models.planner.pixels_of(self._model.pipeline.info, tile))

    def _encode_ahead(self, cache: ConditioningCache) -> None:
        """Encode what waits for the same model in the same way, now that the encoders are there."""
        waiting = [request for request in self._studio.waiting.requests() if request.how == self._request.how]
        limit = LATENCY_SHARE * self._plan.total_seconds
        encode_ahead(waiting, self._model, formats_of(self._plan), cache, self._studio.interrupt, limit)

    def _learn(self, seconds: dict[Phase, float], total: float) -> None:
        """Tell the planner how long it took; loading is left out, so that plans learn what computing takes."""
        measured = {
            phase.label: self._pace.step_seconds if phase.phase is Phase.DENOISE else seconds[phase.phase]
            for phase in self._plan.phases
            if not phase.skipped
        }
        peak = self._studio.accelerator.peak_bytes()
        self._studio.models.planner.learn(self._model.pipeline.info, self._request, self._plan, measured, total, peak)

    # -- when memory changes ----------------------------------------------------------------------------------------

    def _look_at_memory(self) -> None:
        """Between two steps: when other programs took so much that the phase would not fit any more, give way."""
        accelerator = self._studio.accelerator
        if not accelerator.has_own_memory:
            return
        now = self._studio.models.budget_of(self._request)
        taken = self._had - now - round(_UNNOTICED * accelerator.memory()[0])
        if taken > 0 and self._phase.peak_bytes > self._plan.budget_bytes - taken:
            self._had = now
            self._plan_anew(self._plan.budget_bytes - taken, f"other programs took memory: {in_words(now)} are left")

    def _give_way(self, reason: str) -> bool:
        """A block found no memory: plan for less, and let it run again. Returns whether there is more room now."""
        less = round(SQUEEZE * self._studio.accelerator.memory()[0])
        # what is computed with at this moment is not free, but the plan counts it too
        now = self._studio.models.budget_of(self._request) + self._phase.activation_bytes
        return self._plan_anew(min(self._plan.budget_bytes, now) - less, reason)

    def _plan_anew(self, budget: int, reason: str) -> bool:
        """Change where weights are; only if nothing else helps, decode in other tiles. False where no plan would fit.

        Raises torch.OutOfMemoryError when what was planned found no room: the picture must be begun again.
        """
        models, reasons = self._studio.models, [reason]
        folds = any(component.folded_bytes for component in self._plan.components)
        tile = next(phase.tile for phase in self._plan.phases if phase.phase is Phase.DECODE)
        plan = partial(
            models.plan, self._model, self._request, budget, encoded=True, formats=formats_of(self._plan), fold=folds
        )
        try:
            changed = plan(tiles=str(tile or "off"))
        except UserError:
            try:
                changed = plan()
            except UserError:
                return False
            reasons.append("it is decoded in other tiles than planned, which changes some pixels a little")
        models.move(self._model, changed, changed.phases[self._current], reason)
        self._changes += reasons
        self._tell(changed, *reasons, *changed.reasons)
        return True

    def _tell(self, plan: Plan, *reasons: str) -> None:
        """Let a plan be the one that counts, for the allocator too: what it caches is part of the budget."""
        self._plan = msgspec.structs.replace(plan, reasons=reasons)
        self._studio.accelerator.limit(plan.budget_bytes)
        self._studio.emit(Planned(self._request.id, self._plan))
