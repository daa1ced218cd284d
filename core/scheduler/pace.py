"""How long the rest of a run will take: what the plan says, corrected by the steps that were taken."""

from __future__ import annotations

import math
import statistics
import time

from core.messages import Phase
from core.plans import Plan, computing_seconds


class Pace:
    """The clock of one run: its laps are the steps, and what is left follows from them and from the plan."""

    def __init__(self, plan: Plan) -> None:
        self._planned = {phase.phase: computing_seconds(phase) for phase in plan.phases}
        self._laps: list[float] = []
        self._lap, self._preview = time.monotonic(), -math.inf  # the first preview is never too early

    @property
    def step_seconds(self) -> float:
        """A step of this run: the median lap, or what is planned before there is one."""
        return statistics.median(self._laps) if self._laps else self._planned.get(Phase.DENOISE, 0.0)

    def left(self, phase: Phase, steps_left: int) -> float | None:
        """Seconds until the picture is there, from the beginning of a phase or after a step; None before any phase."""
        decode = self._planned.get(Phase.DECODE, 0.0)
        match phase:
            case Phase.ENCODE:
                encode = self._planned.get(Phase.ENCODE, 0.0) + self._planned.get(Phase.IMAGE_ENCODE, 0.0)
                return encode + self.step_seconds * steps_left + decode
            case Phase.IMAGE_ENCODE:
                return self._planned.get(Phase.IMAGE_ENCODE, 0.0) + self.step_seconds * steps_left + decode
            case Phase.DENOISE:
                return self.step_seconds * steps_left + decode
            case Phase.DECODE:
                return decode
            case _:
                return None

    def begin(self) -> None:
        """The first step begins now."""
        self._lap = time.monotonic()

    def lap(self) -> None:
        """A step is done."""
        now = time.monotonic()
        self._laps.append(now - self._lap)
        self._lap = now

    def since_preview(self) -> float:
        """Seconds since a preview was painted."""
        return time.monotonic() - self._preview

    def painted(self) -> None:
        """Note that one was painted; the time that it took is not the next step's."""
        self._preview = self._lap = time.monotonic()
