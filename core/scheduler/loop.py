"""The run loop: takes what waits, one after the other, and outlives whatever goes wrong with it."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence

import torch

from core.generation.conditioning import ConditioningCache
from core.generation.interrupt import Interrupt, Interrupted, on_behalf_of
from core.generation.packing import Tick
from core.hardware.accelerator import choose
from core.hardware.interface import Accelerator
from core.messages import (
    Cancel,
    Cancelled,
    Command,
    ErrorKind,
    Event,
    Failed,
    Finished,
    Phase,
    Progress,
    Request,
    ResidencyError,
    Submit,
    WarmedUp,
    WarmUp,
)
from core.models import catalogue
from core.residency.folding import FoldingError
from core.residency.wanted import DoesNotFitError, Opened
from core.scheduler.loaded import LoadedModels
from core.scheduler.making import SQUEEZE, Making, Studio
from core.scheduler.rehearsal import Rehearsal
from core.scheduler.waiting import Waiting
from core.sizes import in_words

_ATTEMPTS = 4  # how often a picture is begun when memory runs out
_TOLD_SECONDS = 0.2  # how often it is told how far packing is


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
        self._running: list[str] = []
        self._alone: set[str] = set()
        self._warming = False
        self._stopping = False
        self._accelerator: Accelerator
        self._models: LoadedModels
        self._studio: Studio

    @property
    def running(self) -> str:
        """The id of the request that runs now, the first of several, or an empty string."""
        return next(iter(self._running), "")

    def command(self, command: Command) -> None:
        """Take a command from the client."""
        match command:
            case Submit(request=request, alone=alone):
                if alone:
                    self._alone.add(request.id)
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
                    if request_id in self._running:
                        self._interrupt.set(request_id)

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
        self._studio = Studio(
            self._accelerator,
            self._models,
            ConditioningCache(),
            self._interrupt,
            self._waiting,
            self._emit,
            self._prepare,
        )
        self._emit(self._models.planner.ready(str(torch.__version__)))
        while (item := self._waiting.next()) is not None:
            if isinstance(item, WarmUp):
                self._warm_up(item)
            else:
                self._run_request(item)

    def _taken(self, item: Request | WarmUp) -> None:
        with self._lock:
            self._warming = isinstance(item, WarmUp)
            if isinstance(item, Request):
                self._running.append(item.id)

    # -- one item ---------------------------------------------------------------------------------------------------

    def _run_request(self, request: Request) -> None:
        with on_behalf_of(request.id):
            try:
                self._make_or_make_room(request)
                return
            except Interrupted:
                event: Cancelled | Failed = Cancelled(request.id)
            except ResidencyError as error:
                event = Failed(request.id, error.kind, str(error))
            except Exception as error:  # the engine must outlive any failure of one request
                traceback.print_exc()
                if _is_out_of_memory(error):
                    kind = ErrorKind.USER
                    sentence = "There is not enough memory; choose a smaller size or close other programs."
                    if isinstance(error, DoesNotFitError):
                        sentence = str(error)
                else:
                    kind = ErrorKind.INTERNAL
                    sentence = f"Something went wrong inside Residency ({type(error).__name__}); the engine log has it."
                event = Failed(request.id, kind, sentence, traceback.format_exc())
        self._ended(event)

    def _ended(self, event: Finished | Cancelled | Failed) -> None:
        with self._lock:
            self._running.remove(event.id)
            self._interrupt.clear(event.id)
            self._alone.discard(event.id)
        if not (self._stopping and isinstance(event, Cancelled)):  # a stopped engine's request stays in the queue
            self._emit(event)

    def _make_or_make_room(self, request: Request) -> None:
        """Make a picture; when memory runs out, again with nothing else on the device and a plan for less of it.

        What was to be made beside it waits again when something goes wrong, and it is made alone.
        """
        shortage = 0
        reasons: tuple[str, ...] = ()
        alone = request.id in self._alone
        for attempt in range(1, _ATTEMPTS + 1):
            making = Making(request, self._studio, shortage, reasons, alone=alone)
            try:
                for event in making.run():
                    self._ended(event)
                return
            except Exception as error:
                cancelled = isinstance(error, Interrupted)
                beside = self._put_back(making.beside, apart=not cancelled)
                if request.id not in self._running:  # it is there: what went wrong was another's
                    traceback.print_exc()
                    return
                if cancelled or attempt == _ATTEMPTS:
                    raise
                if isinstance(error, FoldingError) or beside:
                    alone = alone or beside
                    continue  # the model is planned without folding now, or this request without the others
                if not _is_out_of_memory(error):
                    raise
            reasons = ("memory ran out, so everything else left the device and the picture was begun again",)
            self._models.evict_all(request.id, reasons[0])
            if attempt > 1:  # what was there did not suffice alone: other programs, or more activations than planned
                shortage += round(SQUEEZE * self._accelerator.memory()[0])
                reasons = (*reasons, f"planned for {in_words(shortage)} less than the driver says is free")
        raise AssertionError  # the last attempt returns or raises

    def _put_back(self, requests: Sequence[Request], *, apart: bool) -> bool:
        """Let requests wait again that were to be made beside another, from now on `apart`; whether there were any."""
        names = {request.id for request in requests}
        with self._lock:
            self._running = [name for name in self._running if name not in names]
        if apart:
            self._alone |= names
        self._waiting.put_back(requests)
        return bool(requests)

    def _warm_up(self, item: WarmUp) -> None:
        begin, problem = time.monotonic(), ""
        try:
            info = catalogue.find(item.model)
            model = self._models.get(info, "warm-up")
            Rehearsal(self._models, self._accelerator, self._interrupt, self._prepare).warm_up(model, item.how)
        except Interrupted:
            pass  # a request came; what it needs is loaded or will be
        except FoldingError:
            pass  # what is planned from now on does without
        except ResidencyError as error:
            problem = str(error)
        except Exception as error:  # the request that needs the model will meet it again, and say so
            traceback.print_exc()
            problem = f"{item.model} could not be loaded: {type(error).__name__}."
        with self._lock:
            self._warming = False
            if not self._stopping:
                self._interrupt.clear()
        self._emit(WarmedUp(item.model, time.monotonic() - begin, problem))

    def _prepare(self, name: str, owner: str, load: Callable[[Tick], Opened]) -> Opened:
        """Open a component: told to the person who waits for it, and open to interruption."""
        told = 0.0

        def tick(done: float) -> None:
            nonlocal told
            self._interrupt.check()
            if owner == self.running and time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                self._emit(Progress(owner, Phase.LOAD, round(100 * done), 100, note=f"packing the {name}, once"))

        self._interrupt.check()
        if owner == self.running:
            self._emit(Progress(owner, Phase.LOAD, note=name))
        opened = load(tick)
        self._interrupt.watch(opened.module)
        return opened


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it says that memory ran out; the CPU's and Apple's allocators say it in a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
