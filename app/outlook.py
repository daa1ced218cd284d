"""Which plan the window shows, and what happened over it: this machine's, a "what if", or a run's. No Qt."""

from __future__ import annotations

from dataclasses import replace

from app import plan_words
from app.forecast import Forecast, Wish, usable
from app.outline import Outline, from_plan
from app.runs import Run, Runs, measured_frame
from app.settings import Settings
from app.view import View, WhatIf
from core.messages import How, Init, Request
from core.models.info import Defaults
from core.plans import Plan

# Two plans whose seconds differ by a smaller share than this are drawn as one.
_SAME_SECONDS = 0.03
_SHAPE = ("width", "height", "frames", "steps")  # what two plans of one model differ by; unknown values agree


class Outlook:
    """Decides. It is told of forecasts and follows runs; settings and a model's own values come with each question."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self.what_if = WhatIf()
        self.forecast: Forecast | None = None

    def wish(self, settings: Settings, defaults: Defaults) -> Wish | None:
        """What should be planned now; None while what is planned shall stay."""
        asked, run = self.what_if, self.runs.current
        if asked:
            model = asked.model or settings.model
            prefer = How(prefer=settings.how.prefer)  # what else is fixed is about the components of the model above
            wish = _wish(settings.request(), defaults) if model == settings.model else Wish(model, how=prefer)
            return self._here(replace(wish, card=asked.card, memory_bytes=asked.memory_bytes))
        if run is None:
            return self._with_memory(_wish(settings.request(), defaults))
        if run.plan is None and run.outline is None:
            wish = replace(_wish(run.request, defaults), warm=usable(run.held), held=run.held_as)
            return self._here(replace(wish, loaded=self.runs.loaded(settings.model)))
        return None

    def view(self, settings: Settings, defaults: Defaults) -> View:
        """What is shown now."""
        made, resident = self.forecast, self.runs.resident_bytes
        if self.what_if:
            if made is None:
                return View(resident_bytes=resident, what_if=" ")
            return self._of_forecast(made, resident)
        run = self.runs.current
        if run is None and self.runs.last is not None and self._same(self.runs.last.request, settings, defaults):
            run = self.runs.last
        if run is not None and (shown := self._of_run(run, resident)) is not None:
            return shown
        if made is not None and made.known:
            return self._of_forecast(made, resident)
        for request, plan in self.runs.planned:
            if self._same(request, settings, defaults):
                outline = from_plan(plan, self.runs.held(request.model))
                return View(outline, summary=plan_words.expected(outline), resident_bytes=resident)
        return View(sentence=plan_words.unknown(settings.model) if made is not None else "", resident_bytes=resident)

    def _of_forecast(self, made: Forecast, resident: int) -> View:
        return View(
            made.outline,
            what_if=plan_words.what_if(made, other_model=bool(self.what_if.model)),
            summary=plan_words.expected(made.outline) if made.outline is not None else "",
            sentence=made.sentence or ("" if made.outline else plan_words.unknown(made.model)),
            resident_bytes=resident,
            settled=made.settled,
        )

    def _of_run(self, run: Run, resident: int) -> View | None:
        """A run over its plan; over its own phases where nobody planned it."""
        if run.plan is not None and (run.outline is None or run.outline.plan is not run.plan):
            run.outline = self._outline_of(run.plan, run)
        elif run.outline is None and self.forecast is not None and self._made_for(run):
            run.outline = self.forecast.outline
        outline = run.outline or measured_frame(run, self.runs.now)
        if outline is None:
            return None
        happened, now = self.runs.happened(run, outline)
        return View(
            outline,
            happened,
            None if run.over else now,
            run,
            summary=plan_words.compared(run.result, outline, happened)
            if run.result is not None
            else plan_words.running(outline, resident),
            resident_bytes=resident,
            settled=self.forecast is not None and self._made_for(run) and self.forecast.settled,
        )

    def _outline_of(self, plan: Plan, run: Run) -> Outline:
        """The engine's plan over time: played through block by block where the window made the same one."""
        made = self.forecast.outline if self.forecast is not None else None
        if made is not None and made.plan is not None and _alike(made.plan, plan):
            return replace(made, plan=plan)
        return from_plan(plan, run.held)

    def _made_for(self, run: Run) -> bool:
        assert self.forecast is not None
        wish, request = self.forecast.wish, run.request
        pairs = tuple((getattr(wish, name), getattr(request, name)) for name in _SHAPE)
        same = (wish.model, wish.how, _start(wish.init)) == (request.model, request.how, _start(request.init))
        return wish.here and same and all(None in pair or pair[0] == pair[1] for pair in pairs)

    def _with_memory(self, wish: Wish) -> Wish:
        held = usable(self.runs.held(wish.model))
        wish = replace(
            wish,
            warm=held,
            held=self.runs.held_as(wish.model),
            loaded=self.runs.loaded(wish.model),
            runs=self.runs.taught,
        )
        return self._here(wish)

    def _here(self, wish: Wish) -> Wish:
        """With what the engine said of this machine, where it is this one that is planned for."""
        return wish if wish.card else replace(wish, told=self.runs.hardware, budget_bytes=self.runs.budget_bytes)

    @staticmethod
    def _same(request: Request, settings: Settings, defaults: Defaults) -> bool:
        """Whether a request was for what the settings ask for, as far as its plan goes; unknown values agree."""
        mine, theirs = _wish(settings.request(), defaults), _wish(request, defaults)
        pairs = tuple((getattr(mine, name), getattr(theirs, name)) for name in _SHAPE)
        same = (mine.model, mine.how, _start(mine.init)) == (theirs.model, theirs.how, _start(theirs.init))
        return same and all(None in pair or pair[0] == pair[1] for pair in pairs)


def _start(init: Init | None) -> float | None:
    """What matters to a plan of a picture that is started from."""
    return None if init is None else init.strength


def _wish(request: Request, defaults: Defaults) -> Wish:
    own = (defaults.width, defaults.height) if request.init is None else (None, None)  # it has a size, too
    return Wish(
        request.model,
        request.width or own[0],
        request.height or own[1],
        request.steps or defaults.steps,
        request.guidance if request.guidance is not None else defaults.guidance,
        request.how,
        negative=bool(request.negative_prompt),
        frames=request.frames or defaults.frames,
        init=request.init,
    )


def _alike(first: Plan, second: Plan) -> bool:
    """Whether two plans put the same bytes in the same places, for about as long."""
    if abs(first.total_seconds - second.total_seconds) > _SAME_SECONDS * second.total_seconds:
        return False

    def places(plan: Plan) -> list[object]:
        formats: list[object] = [(component.name, component.format) for component in plan.components]
        return formats + [
            (phase.label, phase.skipped, placement.component, placement.resident_bytes, placement.streamed_bytes)
            for phase in plan.phases
            for placement in phase.placements
        ]

    return places(first) == places(second)
