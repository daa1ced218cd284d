"""Makes a picture, or several beside each other: plans them, holds and runs each phase as planned, and plans anew when
memory changes under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from PIL import Image

from core.generation import outputs
from core.generation.conditioning import ConditioningCache
from core.generation.denoise import denoise
from core.generation.interrupt import Interrupt, Interrupted, on_behalf_of
from core.generation.run import Run
from core.hardware.interface import Accelerator
from core.library import metadata
from core.messages import (
    Cancelled,
    Event,
    Finished,
    Phase,
    Planned,
    Prediction,
    Progress,
    Request,
    ResidencyError,
    Started,
    UserError,
)
from core.models import catalogue
from core.models.check import resolve
from core.models.info import ModelInfo
from core.planning.lockstep import MOST_COMPANIONS
from core.planning.queue import pays
from core.plans import PhasePlan, Plan, formats_of
from core.scheduler.ahead import encode_ahead
from core.scheduler.loaded import LoadedModel, LoadedModels, Prepare
from core.scheduler.picture import Picture
from core.scheduler.waiting import Waiting
from core.sizes import in_words

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
    """One attempt at a picture, and at those that wait for the same model, if they are better made with it.

    `run` is called once.
    """

    def __init__(
        self,
        asked: Request,
        studio: Studio,
        shortage: int = 0,
        reasons: tuple[str, ...] = (),
        *,
        alone: bool = False,
    ) -> None:
        """Nothing happens yet.

        Args:
            shortage: bytes that are planned for less than there seem to be.
            reasons: what the person should know of earlier attempts.
            alone: nothing else is made with it.
        """
        self._asked, self._studio, self._shortage, self._reasons = asked, studio, shortage, reasons
        self._alone = alone or asked.draft
        self._info: ModelInfo
        self._model: LoadedModel
        self._plan: Plan
        self._pictures: list[Picture] = []  # those that are not ended, in the order in which they were asked for
        self.beside: list[Request] = []  # what was taken from the queue to be made with it, and has not ended
        self._current = 0  # the number of the phase that runs
        self._had = 0  # what there was to use when it began
        self._changes: list[str] = []  # why it was planned anew

    def run(self) -> Iterator[Finished | Cancelled]:
        """Make it; gives how each picture ended, the one that was asked for first.

        Raises what the phases raise, torch.OutOfMemoryError when giving way did not help.
        """
        begin = time.monotonic()
        models = self._studio.models
        info = self._info = catalogue.find(self._asked.model)
        request = resolve(self._asked, info)
        self._begin(request)
        models.start_run()
        self._model = models.get(info, request.id)
        plan = self._prepare(request)
        self._tell(plan, *self._reasons, *plan.reasons)
        for picture in self._pictures:
            picture.planned(self._plan)
        loading = time.monotonic() - begin
        for number in range(len(self._plan.phases)):
            self._current = number
            phase = self._phase
            if phase.skipped:
                continue
            asked_for = time.monotonic()
            # encoders and VAEs keep caches between their layers, so that a block of theirs cannot simply run again
            give_way = self._give_way if phase.phase is Phase.DENOISE else None
            check = self._studio.interrupt.check
            prepare, loras = self._studio.prepare, request.loras
            with models.hold(self._model, self._plan, phase, request.id, prepare, give_way, check, loras):
                loading += time.monotonic() - asked_for
                self._had = models.budget_of(request)
                if phase.phase is not Phase.DECODE:
                    yield from self._run_phase(phase)
                    if not self._pictures:
                        return
                    continue
                shared, together = models.link_bytes, len(self._pictures)
                for picture in list(self._pictures):
                    before = models.link_bytes
                    frames = self._decode(picture, phase)
                    if frames is None:
                        yield Cancelled(picture.request.id)
                        continue
                    link_bytes = shared // together + models.link_bytes - before
                    yield self._finish(picture, frames, loading, time.monotonic() - begin, link_bytes)

    # -- who is made ------------------------------------------------------------------------------------------------

    def _begin(self, request: Request) -> None:
        self._studio.emit(Started(request.id, request))
        self._studio.emit(Progress(request.id, Phase.LOAD))
        if request.out:
            metadata.check_writable(Path(request.out), request.frames or 1)

    def _prepare(self, request: Request) -> Plan:
        """Decide what is made with it and how; begin all of them."""
        models, studio = self._studio.models, self._studio
        budget = models.budget_of(request) - self._shortage
        companions = [] if self._alone or not studio.accelerator.has_own_memory else self._companions()
        plan = models.plan(self._model, request, budget, companions=companions)
        formats, attached = formats_of(plan), models.attached(self._model, request.loras)
        self.beside = studio.waiting.take([companion.id for companion in companions[: plan.together - 1]])
        taken = {asked.id for asked in self.beside}
        with_it = [companion for companion in companions if companion.id in taken]  # with nothing left open
        for companion in with_it:
            self._begin(companion)
        for each in (request, *with_it):
            run = Run(each, self._model.pipeline, self._model.previewer, studio.interrupt, formats, attached)
            self._pictures.append(Picture(each, run, studio.emit))
            self._pictures[-1].recall(studio.encodings)
        tile = _tile(plan)
        for picture in self._pictures:
            picture.recall_picture(tile)
        encoded = all(picture.encoded for picture in self._pictures)
        pictured = request.init is not None and all(picture.pictured for picture in self._pictures)
        if encoded or pictured or len(with_it) != plan.together - 1:
            # the encoders' formats are those that the encoding was made with; the rest may be better off without them
            encoders = {p.component for phase in plan.phases if phase.phase is Phase.ENCODE for p in phase.placements}
            decided = {name: wanted for name, wanted in formats.items() if name in encoders or with_it}
            plan = models.plan(
                self._model,
                request,
                budget,
                encoded=encoded,
                pictured=pictured,
                formats=decided,
                tiles=str(tile or "off") if pictured else None,  # the latents were made in these
                companions=with_it,
                together=True,
            )
        return plan

    def _companions(self) -> list[Request]:
        """What waits for the same model, to be made in the same way."""
        companions: list[Request] = []
        for asked in self._studio.waiting.requests():
            if len(companions) == MOST_COMPANIONS:  # a long queue is not looked through for each picture
                break
            if asked.how != self._asked.how or asked.loras != self._asked.loras:
                continue
            if (asked.init is None) != (self._asked.init is None):
                continue  # their phases are others
            try:
                info = catalogue.find(asked.model)
                if info.identity != self._info.identity:
                    continue
                companion = resolve(asked, info)
                if asked.out:
                    metadata.check_writable(Path(asked.out), companion.frames or 1)
                companions.append(companion)
            except ResidencyError:  # it will be told so in its own turn
                continue
        return companions

    def _end(self, picture: Picture) -> None:
        self._pictures.remove(picture)
        self.beside = [request for request in self.beside if request.id != picture.request.id]

    # -- phases -----------------------------------------------------------------------------------------------------

    @property
    def _phase(self) -> PhasePlan:
        return self._plan.phases[self._current]

    def _run_phase(self, phase: PhasePlan) -> Iterator[Cancelled]:
        accelerator = self._studio.accelerator
        with accelerator.computing():
            if phase.phase is Phase.ENCODE:
                ended = self._encode()
            elif phase.phase is Phase.IMAGE_ENCODE:
                ended = [self._encode_picture(picture, phase) for picture in self._pictures]
            else:
                begin = time.monotonic()
                ended = self._denoise(phase)
                accelerator.synchronize()
                for picture in self._pictures:
                    before = picture.seconds.get(Phase.DENOISE, 0.0)
                    picture.seconds[Phase.DENOISE] = before + time.monotonic() - begin
            accelerator.synchronize()
        for picture in [picture for picture, done in zip(self._pictures, ended, strict=True) if not done]:
            self._end(picture)
            yield Cancelled(picture.request.id)

    def _encode(self) -> list[bool]:
        """Encode one prompt after the other; whether each was, or else interrupted."""
        ended = []
        for picture in self._pictures:
            with on_behalf_of(picture.request.id):
                try:
                    picture.begin(Phase.ENCODE)
                    picture.encode()
                    ended.append(True)
                except Interrupted:
                    ended.append(False)
        first = self._pictures[0]
        if all(ended) and first.cache is not None and not self._alone and pays(self._plan, self._phase):
            asked, models = self._asked, self._studio.models
            waiting = self._studio.waiting.requests()
            alike = [each for each in waiting if (each.how, each.loras) == (asked.how, asked.loras)]
            limit = self._asked.how.latency * self._plan.total_seconds
            attached = models.attached(self._model, asked.loras)
            formats, interrupt = formats_of(self._plan), self._studio.interrupt
            encode_ahead(alike, self._model, formats, first.cache, interrupt, limit, attached)
        return ended

    def _encode_picture(self, picture: Picture, phase: PhasePlan) -> bool:
        """Encode what a picture starts from; False if it was interrupted."""
        with on_behalf_of(picture.request.id):
            try:
                picture.begin(Phase.IMAGE_ENCODE)
                picture.encode_picture(phase.tile)
            except Interrupted:
                return False
        return True

    def _denoise(self, phase: PhasePlan) -> list[bool]:
        part = sum(earlier.phase is Phase.DENOISE for earlier in self._plan.phases[: self._current])
        for picture in self._pictures:
            picture.begin(Phase.DENOISE, again=part > 0)
        runs = [(picture.run, partial(self._on_step, picture)) for picture in self._pictures]
        return denoise(self._model.pipeline, runs, lockstep=phase.lockstep > 1 or len(runs) > 1, part=part)

    def _on_step(self, picture: Picture, step: int, paint: Callable[[], tuple[int, int, bytes]]) -> None:
        if step < picture.run.steps:
            self._look_at_memory()
        picture.step(step, paint)

    def _decode(self, picture: Picture, phase: PhasePlan) -> list[Image.Image] | None:
        """The frames of a picture; None if it was interrupted."""
        accelerator, begin = self._studio.accelerator, time.monotonic()
        with on_behalf_of(picture.request.id):
            try:
                picture.begin(Phase.DECODE)
                with accelerator.computing():
                    frames = picture.run.decode(phase.tile)
                accelerator.synchronize()
            except Interrupted:
                self._end(picture)
                return None
        picture.seconds[Phase.DECODE] = time.monotonic() - begin
        return frames

    def _finish(
        self, picture: Picture, frames: Sequence[Image.Image], loading: float, total: float, link_bytes: int
    ) -> Finished:
        """The result of a picture, with what was measured."""
        models, model = self._studio.models, self._model
        times = {phase.phase: picture.seconds.get(phase.phase, 0.0) for phase in self._plan.phases}
        facts = outputs.Facts(
            accelerator=self._studio.accelerator,
            budget_bytes=self._plan.budget_bytes,
            peak_device_bytes=models.peak_bytes,
            link_bytes=link_bytes,
            seconds={"load": loading, **{str(phase): value for phase, value in times.items()}, "total": total},
            guidance=picture.run.guidance,
            scheduler=type(model.pipeline.modular.scheduler).__name__,
            predicted=_predicted(picture.plan, models.planner.counted_bytes(picture.plan)),
            components=models.use(model, self._plan),
            reasons=[*picture.run.reasons, *picture.plan.reasons, *self._changes],
            tiling=self._tiling(),
            loras=picture.run.loras,
            init=picture.run.init,
            made_steps=picture.run.steps if picture.request.init is not None else None,
        )
        if not self._changes and self._plan.together == 1:
            self._learn(picture, total)
        if picture.request.out:
            self._studio.emit(Progress(picture.request.id, Phase.SAVE))
        finished = outputs.finish(picture.request, self._info, frames, facts)
        self._end(picture)
        return finished

    def _tiling(self) -> str:
        """How it was decoded, in words."""
        tile = _tile(self._plan)
        return "off" if tile is None else str(self._studio.models.planner.pixels_of(self._model.pipeline.info, tile))

    def _learn(self, picture: Picture, total: float) -> None:
        """Tell the planner how long it took; loading is left out, so that plans learn what computing takes."""
        measured = {
            phase.label: picture.pace.step_seconds if phase.phase is Phase.DENOISE else picture.seconds[phase.phase]
            for phase in self._plan.phases
            if not phase.skipped
        }
        models = self._studio.models
        models.planner.learn(self._info, picture.request, self._plan, measured, total, models.peak_bytes)

    # -- when memory changes ----------------------------------------------------------------------------------------

    def _look_at_memory(self) -> None:
        """Between two steps: when other programs took so much that the phase would not fit any more, give way."""
        accelerator = self._studio.accelerator
        if not accelerator.has_own_memory:
            return
        now = self._studio.models.budget_of(self._asked)
        taken = self._had - now - round(_UNNOTICED * accelerator.memory()[0])
        if taken > 0 and self._phase.reserved_bytes > self._plan.budget_bytes - taken:
            self._had = now
            self._plan_anew(self._plan.budget_bytes - taken, f"other programs took memory: {in_words(now)} are left")

    def _give_way(self, reason: str) -> bool:
        """A block found no memory: plan for less, and let it run again. Returns whether there is more room now."""
        less = round(SQUEEZE * self._studio.accelerator.memory()[0])
        # what is computed with at this moment is not free, but the plan counts it too
        now = self._studio.models.budget_of(self._asked) + self._phase.activation_bytes
        return self._plan_anew(min(self._plan.budget_bytes, now) - less, reason)

    def _plan_anew(self, budget: int, reason: str) -> bool:
        """Change where weights are; only if nothing else helps, decode in other tiles. False where no plan would fit.

        Raises torch.OutOfMemoryError when what was planned found no room: the pictures must be begun again.
        """
        models, reasons = self._studio.models, [reason]
        folds = any(component.folded_bytes for component in self._plan.components)
        tile = _tile(self._plan)
        first, *others = [picture.request for picture in self._pictures]
        formats = formats_of(self._plan)
        plan = partial(
            models.plan,
            self._model,
            first,
            budget,
            encoded=True,
            pictured=first.init is not None,
            formats=formats,
            fold=folds,
            companions=others,
            together=True,
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
        for picture in self._pictures:
            self._studio.emit(Planned(picture.request.id, self._plan))


def _tile(plan: Plan) -> int | None:
    """The edge of the VAE's tiles in latent positions; None where it works whole."""
    return next(phase.tile for phase in plan.phases if phase.phase is Phase.DECODE)


def _predicted(plan: Plan, peak: int) -> Prediction:
    planned = {phase.label: phase.seconds for phase in plan.phases if not phase.skipped}
    return Prediction(plan.total_seconds, peak, planned)
