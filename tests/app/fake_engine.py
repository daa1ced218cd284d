"""A test double with the face of `core.engine.client.EngineClient`: answers with timed events and drawn pixels."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from core.library import metadata
from core.library.queue import JobQueue, State
from core.messages import (
    AS_PLANNED,
    Cancelled,
    ComponentUse,
    EngineStarting,
    EngineStopped,
    Event,
    Finished,
    How,
    LedgerRecord,
    Phase,
    Preview,
    Progress,
    Ready,
    Request,
    Result,
    Started,
    WarmedUp,
)

Draw = Callable[[Request, float], Image.Image]
COMPONENTS = {
    "text_encoder": ComponentUse(format="F16", bytes=1_330_000, peak_bytes=1_400_000),
    "text_encoder_2": ComponentUse(format="F16", bytes=2_170_000, peak_bytes=2_300_000),
    "transformer": ComponentUse(format="F16", bytes=12_580_000, peak_bytes=14_000_000),
    "vae": ComponentUse(format="F16", bytes=1_950_000, peak_bytes=9_000_000),
}


def plain_picture(request: Request, done: float) -> Image.Image:
    """One colour for each prompt and seed, darker while unfinished."""
    digest = hashlib.sha256(f"{request.prompt}|{request.seed}".encode()).digest()
    colour = tuple(round(value * done) for value in digest[:3])
    return Image.new("RGB", (request.width or 128, request.height or 128), colour)


def make_result(request: Request, image: Image.Image, seconds: float, steps: int) -> Result:
    """A result as the engine would report it."""
    return Result(
        id=request.id,
        file=request.out,
        pixels_sha256=hashlib.sha256(image.tobytes()).hexdigest(),
        width=image.width,
        height=image.height,
        model=request.model,
        family="FluxPipeline",
        fingerprint="0" * 64,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        steps=steps,
        guidance=request.guidance,
        draft=request.draft,
        accelerator="cpu",
        device="CPU",
        seconds={"encode": seconds / 10, "denoise": seconds * 0.8, "decode": seconds / 10, "total": seconds},
        components=COMPONENTS,
        created=time.strftime("%Y-%m-%dT%H:%M:%S"),
        how=request.how,
        init=request.init,
    )


class FakeEngine:
    """Runs one request after another in a thread, as slowly as it is told."""

    def __init__(
        self,
        jobs: JobQueue | None = None,
        *,
        draw: Draw = plain_picture,
        step_seconds: float = 0.002,
        start_seconds: float = 0.0,
        close_seconds: float = 0.0,
        steps: int = 8,
    ) -> None:
        self.jobs = jobs or JobQueue(None)
        self.draw = draw
        self.step_seconds, self.start_seconds, self.close_seconds = step_seconds, start_seconds, close_seconds
        self.steps = steps
        self.submitted: list[Request] = []
        self.cancelled: set[str] = set()
        self.warmed: list[str] = []
        self.restarts = 0
        self.closed = False
        self.fail: Callable[[Request], Event | None] = lambda request: None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._drafts: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._events.put(EngineStarting(1))
        for job in self.jobs.jobs(State.WAITING):
            self._waiting.put(job.request)
        self._thread.start()

    def submit(self, request: Request) -> None:
        self.submitted.append(request)
        if request.draft:
            self.cancelled.update(self._drafts)
            self._drafts.append(request.id)
        else:
            self.jobs.add(request)
        self._waiting.put(request)

    def cancel(self, request_id: str) -> None:
        self.cancelled.add(request_id)

    def retry(self, request_id: str) -> None:
        job = self.jobs.get(request_id)
        if job is not None:
            self.jobs.remove(request_id)
            self.submit(job.request)

    def warm_up(self, model: str, how: How = AS_PLANNED) -> None:
        self.warmed.append(model)
        if self._thread.is_alive() or not self.closed:
            self._events.put(WarmedUp(model, 0.1))

    def next_event(self, timeout: float | None = None) -> Event | None:
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def restart(self) -> None:
        self.restarts += 1
        self._events.put(EngineStarting(self.restarts + 1))
        self._events.put(Ready("cpu", "CPU", "2.13.0", 0, 0))

    def close(self) -> None:
        self.closed = True
        self._waiting.put(None)
        time.sleep(self.close_seconds)
        self._events.put(EngineStopped(True))
        self.jobs.close()

    def say(self, event: Event) -> None:
        """Put an event in from a test."""
        self._events.put(event)

    def _run(self) -> None:
        time.sleep(self.start_seconds)
        self._events.put(Ready("cpu", "CPU", "2.13.0", 0, 0))
        for name, use in COMPONENTS.items():
            self._events.put(LedgerRecord(time.time(), "starter", "starter", name, use.format, use.bytes, 0, "loaded"))
        while (request := self._waiting.get()) is not None and not self.closed:
            self._make(request)

    def _make(self, request: Request) -> None:
        if request.id in self.cancelled:
            self._end(request, Cancelled(request.id))
            return
        begin = time.monotonic()
        self._events.put(Started(request.id, request))
        steps = request.steps or (3 if request.draft else self.steps)
        failure = self.fail(request)
        if failure is not None:
            self._events.put(failure)
            return
        for step in range(1, steps + 1):
            time.sleep(self.step_seconds)
            if request.id in self.cancelled or self.closed:
                self._end(request, Cancelled(request.id))
                return
            left = (steps - step) * self.step_seconds
            self._events.put(Progress(request.id, Phase.DENOISE, step, steps, left))
            image = self.draw(request, step / steps)
            self._events.put(Preview(request.id, step, steps, image.width, image.height, image.tobytes()))
        image = self.draw(request, 1.0)
        result = make_result(request, image, max(time.monotonic() - begin, 1e-4), steps)
        if request.out:
            metadata.write_png(Path(request.out), image, result)
        self._end(request, Finished(request.id, result, image.tobytes() if request.draft else b""))

    def _end(self, request: Request, event: Event) -> None:
        if not request.draft and not self.closed:
            self.jobs.remove(request.id)
        self._events.put(event)
