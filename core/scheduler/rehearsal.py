"""Warms a model up with a short real run: code is imported, kernels are chosen, and the planner learns the pace.

The first use of a network takes seconds that no later one does. When the run was quick, another one is timed, so that
the plan of the first picture knows more than the rates of this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from core.generation.denoise import denoise
from core.generation.interrupt import Interrupt, Interrupted
from core.generation.run import Run
from core.hardware.interface import Accelerator
from core.messages import How, Phase, Request
from core.models.check import resolve
from core.plans import Plan, formats_of
from core.scheduler.loaded import LoadedModel, LoadedModels, Prepare

_OWNER = "warm-up"
_QUICK_SECONDS = 5.0  # a first run that took longer is not followed by another one
_TIMED_STEPS = 2  # with one step the work around the loop would count as much as the step


class Rehearsal:
    """Runs requests that nobody waits for, on one accelerator."""

    def __init__(self, models: LoadedModels, accelerator: Accelerator, interrupt: Interrupt, prepare: Prepare) -> None:
        """`prepare` is what LoadedModels.hold takes."""
        self._models, self._accelerator = models, accelerator
        self._interrupt, self._prepare = interrupt, prepare

    def warm_up(self, model: LoadedModel, how: How) -> None:
        """Load a model and run it as pictures will be made.

        Raises as a real run does, and Interrupted when somebody waits now.
        """
        info, planner = model.pipeline.info, self._models.planner
        _, measured = self._run(model, resolve(Request(prompt="warm up", steps=1, frames=1, how=how), info))
        request = resolve(Request(prompt="warm up", steps=_TIMED_STEPS, frames=1, how=how), info)
        if sum(measured.values()) < _QUICK_SECONDS and not planner.knows(info, request):
            begin = time.monotonic()
            plan, measured = self._run(model, request)
            planner.learn(info, request, plan, measured, time.monotonic() - begin, 0)

    def _run(self, model: LoadedModel, request: Request) -> tuple[Plan, dict[str, float]]:
        """(the plan, seconds by phase's label, those of one step where a phase has steps)."""
        plan = self._models.plan(model, request, self._models.budget_of(request))
        run = Run(request, model.pipeline, model.previewer, self._interrupt, formats_of(plan))
        measured: dict[str, float] = {}
        part = 0
        for phase in plan.phases:
            with self._models.hold(model, plan, phase, _OWNER, self._prepare), self._accelerator.computing():
                begin = time.monotonic()
                match phase.phase:
                    case Phase.ENCODE:
                        run.encode(None)
                    case Phase.DENOISE:
                        if not all(denoise(model.pipeline, [(run, _paint)], lockstep=phase.lockstep > 1, part=part)):
                            raise Interrupted
                        part += 1
                    case _:
                        run.decode(phase.tile, learn=False)
                self._accelerator.synchronize()
                measured[phase.label] = (time.monotonic() - begin) / phase.steps
        return plan, measured


def _paint(_step: int, paint: Callable[[], tuple[int, int, bytes]]) -> None:
    """A preview is part of a step."""
    paint()
