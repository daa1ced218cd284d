"""One request while it is made: its run through the phases, its clock, and what the person is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from core.generation.conditioning import ConditioningCache
from core.generation.run import Run
from core.messages import Event, Phase, Preview, Progress, Request
from core.plans import Plan
from core.scheduler.pace import Pace

# Previews are painted at most this often: more cannot be seen, and painting takes time from the steps.
PREVIEW_INTERVAL_SECONDS = 0.05


class Picture:
    """A resolved request that is being made, alone or beside others."""

    def __init__(self, request: Request, run: Run, emit: Callable[[Event], None]) -> None:
        self.request, self.run, self._emit = request, run, emit
        self.cache: ConditioningCache | None = None
        self.encoded = False  # whether its text is
        self.pictured = request.init is None  # whether the picture that it starts from is
        self.seconds: dict[Phase, float] = {}
        self.plan: Plan  # what was said first
        self.pace: Pace

    def recall(self, cache: ConditioningCache) -> None:
        """Take the text's encoding from the cache where it is there, and keep it there where not."""
        if self.request.how.cache:
            self.cache = cache
            self.encoded = self.run.recall_encoding(cache)

    def recall_picture(self, tile: int | None) -> None:
        """Take what the VAE made of the picture that it starts from out of the cache, where it is there."""
        if self.cache is not None and not self.pictured:
            self.pictured = self.run.recall_picture(self.cache, tile)

    def planned(self, plan: Plan) -> None:
        """Begin with a plan, whose seconds are told until there are better."""
        self.plan, self.pace = plan, Pace(plan)

    def begin(self, phase: Phase, *, again: bool = False) -> None:
        """A phase begins for it, or goes on with other networks."""
        steps = self.run.steps
        if not again:
            self._emit(Progress(self.request.id, phase, 0, steps, self.pace.left(phase, steps)))
        if phase is Phase.DENOISE:
            self.pace.begin()

    def encode(self) -> None:
        """Run the text encoders, unless its encoding is known."""
        if not self.encoded:
            self.seconds[Phase.ENCODE] = self.run.encode(self.cache)
            self.encoded = True

    def encode_picture(self, tile: int | None) -> None:
        """Run the VAE's encoder, unless what it would make is known."""
        if not self.pictured:
            begin = time.monotonic()
            self.run.encode_picture(self.cache, tile)
            self.seconds[Phase.IMAGE_ENCODE] = time.monotonic() - begin
            self.pictured = True

    def step(self, step: int, paint: Callable[[], tuple[int, int, bytes]]) -> None:
        """A step is done: tell how far it is, and show it."""
        pace, name, steps = self.pace, self.request.id, self.run.steps
        pace.lap()
        self._emit(Progress(name, Phase.DENOISE, step, steps, pace.left(Phase.DENOISE, steps - step)))
        if step < steps and pace.since_preview() >= PREVIEW_INTERVAL_SECONDS:
            self._emit(Preview(name, step, steps, *paint()))
            pace.painted()
