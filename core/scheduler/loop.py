"""The run loop: takes what waits, plans it, and runs its phases, each inside one hold of its components."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import torch
from PIL import Image
from torch import nn

from core.generation import outputs
from core.generation.conditioning import ConditioningCache
from core.generation.interrupt import Interrupt, Interrupted
from core.generation.run import Run
from core.hardware.accelerator import choose
from core.hardware.interface import Accelerator
from core.library import metadata
from core.messages import (
    Cancel,
    Cancelled,
    Command,
    ErrorKind,
    Event,
    Failed,
    Finished,
    Phase,
    Planned,
    Prediction,
    Preview,
    Progress,
    Ready,
    Request,
    ResidencyError,
    Started,
    Submit,
    WarmedUp,
    WarmUp,
)
from core.models import catalogue
from core.models.check import resolve
from core.models.info import ModelInfo
from core.plans import Plan
from core.scheduler.ahead import LATENCY_SHARE, encode_ahead, pays
from core.scheduler.loaded import LoadedModels
from core.scheduler.pace import Pace
from core.scheduler.rehearsal import Rehearsal
from core.scheduler.waiting import Waiting

# Previews are painted at most this often: more cannot be seen, and painting takes time from the steps.
PREVIEW_INTERVAL_SECONDS = 0.05


class Scheduler:
    """Owns the accelerator. `run` belongs to one thread; `command` and `stop` may be called from any."""

    def __init__(self, emit: Callable[[Event], None], accelerator: str | Accelerator = "auto") -> None:
        """Events go to `emit`, from the thread of `run` and from that of `command`.

        `accelerator` is a kind, which `run` chooses by, or an accelerator.
        """
        self._emit = emit
        self._asked = accelerator
        self._waiting = Waiting(self._taken)
        self._interrupt = Interrupt()
        self._lock = threading.Lock()
        self._running = ""
        self._warming = False
        self._stopping = False
        self._encodings = ConditioningCache()
        self._accelerator: Accelerator
        self._models: LoadedModels

    @property
    def running(self) -> str:
        """The id of the request that runs now, or an empty string."""
        return self._running

    def command(self, command: Command) -> None:
        """Take a command from the client."""
        match command:
            case Submit(request=request):
                self._waiting.add(request)
                with self._lock:
                    if self._warming:
                        self._interrupt.set()  # somebody waits now; what is loaded stays
            case WarmUp():
                self._waiting.add(command)
            case Cancel(id=request_id):
                if self._waiting.remove(request_id):
                    self._emit(Cancelled(request_id))
                    return
                with self._lock:
                    if self._running == request_id:
                        self._interrupt.set()

    def stop(self) -> None:
        """Stop what runs at its next block and let `run` return."""
        with self._lock:
            self._stopping = True
            self._interrupt.set()
        self._waiting.stop()

    def run(self) -> None:
        """Run what waits until `stop`. Raises UserError when the accelerator asked for cannot be used."""
        self._accelerator = choose(self._asked) if isinstance(self._asked, str) else self._asked
        torch.backends.cudnn.benchmark = False  # it would choose kernels by timing, and pixels with them
        self._models = LoadedModels(self._accelerator, self._emit)
        total, free = self._accelerator.memory()
        self._emit(Ready(self._accelerator.kind, self._accelerator.name, str(torch.__version__), total, free))
        while (item := self._waiting.next()) is not None:
            if isinstance(item, WarmUp):
                self._warm_up(item)
            else:
                self._run_request(item)

    def _taken(self, item: Request | WarmUp) -> None:
        with self._lock:
            if not self._stopping:
                self._interrupt.clear()
            self._warming = isinstance(item, WarmUp)
            self._running = item.id if isinstance(item, Request) else ""

    # -- one item ---------------------------------------------------------------------------------------------------

    def _run_request(self, request: Request) -> None:
        try:
            event: Event = self._make_or_make_room(request)
        except Interrupted:
            event = Cancelled(request.id)
        except ResidencyError as error:
            event = Failed(request.id, error.kind, str(error))
        except Exception as error:  # the engine must outlive any failure of one request
            traceback.print_exc()
            if _is_out_of_memory(error):
                kind = ErrorKind.USER
                sentence = "There is not enough memory; choose a smaller size or close other programs."
            else:
                kind = ErrorKind.INTERNAL
                sentence = f"Something went wrong inside Residency ({type(error).__name__}); the engine log has it."
            event = Failed(request.id, kind, sentence, traceback.format_exc())
        with self._lock:
            self._running = ""
        if not (self._stopping and isinstance(event, Cancelled)):  # a stopped engine's request stays in the queue
            self._emit(event)

    def _make_or_make_room(self, request: Request) -> Finished:
        """Make a picture; when memory runs out, once more with nothing on the device but what it needs."""
        try:
            return self._make(request)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
        reason = "memory ran out, so everything else left the device and the picture was begun again"
        self._models.evict_all(request.id, reason)
        return self._make(request, reason)

    def _warm_up(self, item: WarmUp) -> None:
        begin, problem = time.monotonic(), ""
        try:
            info = catalogue.find(item.model)
            model = self._models.get(info, "warm-up")
            Rehearsal(self._models, self._accelerator, self._interrupt, self._prepare).warm_up(model)
        except Interrupted:
            pass  # a request came; what it needs is loaded or will be
        except ResidencyError as error:
            problem = str(error)
        except Exception as error:  # the request that needs the model will meet it again, and say so
            traceback.print_exc()
            problem = f"{item.model} could not be loaded: {type(error).__name__}."
        with self._lock:
            self._warming = False
        self._emit(WarmedUp(item.model, time.monotonic() - begin, problem))

    def _make(self, asked: Request, *reasons: str) -> Finished:
        begin = time.monotonic()
        info = catalogue.find(asked.model)
        request = resolve(asked, info)
        self._emit(Started(request.id, request))
        self._emit(Progress(request.id, Phase.LOAD))
        if request.out:
            metadata.check_writable(Path(request.out))
        self._models.start_run()
        model = self._models.get(info, request.id)
        run = Run(request, model.pipeline, model.previewer, self._interrupt)
        encoded = run.recall_encoding(self._encodings)
        plan = self._models.plan(model, request, encoded=encoded)
        plan = msgspec.structs.replace(plan, reasons=(*reasons, *plan.reasons))
        self._emit(Planned(request.id, plan))
        run.reasons.extend(plan.reasons)
        pace = Pace(plan)
        planned = {phase.label: phase.seconds for phase in plan.phases if not phase.skipped}
        predicted = Prediction(plan.total_seconds, plan.peak_bytes, planned)
        seconds = {phase.phase: 0.0 for phase in plan.phases}
        loading = time.monotonic() - begin
        image = None
        for phase in plan.phases:
            if phase.skipped:
                continue
            asked_for = time.monotonic()
            with self._models.hold(model, plan, phase, request.id, self._prepare):
                held = time.monotonic()
                with self._accelerator.computing():
                    image = self._run_phase(phase.phase, run, pace)
                self._accelerator.synchronize()
                seconds[phase.phase] = time.monotonic() - held
                if phase.phase is Phase.ENCODE and not request.draft and pays(plan, phase):
                    limit = LATENCY_SHARE * plan.total_seconds
                    encode_ahead(self._waiting.requests(), model, self._encodings, self._interrupt, limit)
            loading += held - asked_for
        assert image is not None  # the last phase is always DECODE
        facts = outputs.Facts(
            accelerator=self._accelerator,
            budget_bytes=plan.budget_bytes,
            peak_device_bytes=self._models.peak_bytes,
            link_bytes=self._models.link_bytes,
            seconds={
                "load": loading,
                **{str(phase): value for phase, value in seconds.items()},
                "total": time.monotonic() - begin,
            },
            guidance=run.guidance,
            scheduler=type(model.pipeline.modular.scheduler).__name__,
            predicted=predicted,
            components=self._models.use(model),
            reasons=run.reasons,
        )
        self._learn(info, request, plan, pace, seconds, time.monotonic() - begin)
        if request.out:
            self._emit(Progress(request.id, Phase.SAVE))
        return outputs.finish(request, info, image, facts)

    def _learn(
        self, info: ModelInfo, request: Request, plan: Plan, pace: Pace, seconds: dict[Phase, float], total: float
    ) -> None:
        """Tell the planner how long it took; loading is left out, so that plans learn what computing takes."""
        measured = {
            phase.label: pace.step_seconds if phase.phase is Phase.DENOISE else seconds[phase.phase]
            for phase in plan.phases
            if not phase.skipped
        }
        self._models.planner.learn(info, request, plan, measured, total, self._accelerator.peak_bytes())

    def _prepare(self, name: str, owner: str, load: Callable[[], nn.Module]) -> nn.Module:
        """Read a component's weights: told to the person who waits for it, and open to interruption."""
        self._interrupt.check()
        if owner == self._running:
            self._emit(Progress(owner, Phase.LOAD, note=name))
        module = load()
        self._interrupt.watch(module)
        return module

    def _run_phase(self, phase: Phase, run: Run, pace: Pace) -> Image.Image | None:
        request = run.request
        steps = request.steps or 0
        self._emit(Progress(request.id, phase, 0, steps, pace.left(phase, steps)))
        match phase:
            case Phase.ENCODE:
                run.encode(self._encodings)
            case Phase.DENOISE:
                pace.begin()
                run.denoise(partial(self._on_step, request.id, steps, pace))
            case _:
                return run.decode()
        return None

    def _on_step(
        self, request_id: str, steps: int, pace: Pace, step: int, paint: Callable[[], tuple[int, int, bytes]]
    ) -> None:
        pace.lap()
        self._emit(Progress(request_id, Phase.DENOISE, step, steps, pace.left(Phase.DENOISE, steps - step)))
        if step < steps and pace.since_preview() >= PREVIEW_INTERVAL_SECONDS:
            self._emit(Preview(request_id, step, steps, *paint()))
            pace.painted()


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it says that memory ran out; the CPU's and Apple's allocators say it in a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
