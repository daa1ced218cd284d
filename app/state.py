"""What the studio shows, as plain data that engine messages change. No Qt: the panels read it, tests drive it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from app import device
from app.jobs import Jobs
from app.runs import Runs
from app.shelf import Page, Shelves
from app.shown import Component, Kind, Notice, Picture, Stage, Topic, Work
from app.times import Times
from core.library.queue import Job, State
from core.messages import (
    Cancelled,
    EngineStarting,
    EngineStopped,
    ErrorKind,
    Event,
    Failed,
    Finished,
    LedgerRecord,
    Preview,
    Progress,
    Ready,
    Request,
    Result,
    SetAside,
    Started,
    WarmedUp,
)

# Drafts that come faster than this are shown only when done: their unfinished steps would be flicker.
QUICK_DRAFT_SECONDS = 1.5


@dataclass
class StudioState:
    """Everything shown. Each method returns the topics that it changed."""

    stage: Stage = Stage.STARTING
    device: str = ""
    accelerator: str = ""
    picture: Picture | None = None
    work: Work | None = None
    queue: Jobs = field(default_factory=Jobs)
    shelves: Shelves = field(default_factory=Shelves)
    components: dict[str, Component] = field(default_factory=dict)
    notice: Notice | None = None
    times: Times = field(default_factory=Times)
    runs: Runs = field(default_factory=Runs)
    draft_id: str = ""
    draft_seconds: float | None = None
    # whether the canvas follows the full pictures being made; typing and looking at older pictures end it
    watching: bool = True
    _warming: bool = False

    # -- what the person does ----------------------------------------------------------------------------------------

    def submitted(self, request: Request, draft_seconds: float | None = None) -> set[Topic]:
        """A request went to the engine; of a draft it may be known how long it will take."""
        if request.draft:
            self.draft_id = request.id
            self.draft_seconds = draft_seconds if draft_seconds is not None else self.draft_seconds
            self.watching = False
            return set()
        self.queue.append(Job(request, State.WAITING))
        self.watching = True
        self.notice = None
        return {Topic.QUEUE, Topic.NOTICE}

    def show(self, result: Result) -> set[Topic]:
        """Look at an older picture."""
        self.watching = False
        self.draft_id = ""
        self.picture = _full(result)
        return {Topic.CANVAS}

    def show_draft(self, result: Result, pixels: bytes) -> set[Topic]:
        """Show a draft that was made before."""
        self.watching = False
        self.draft_id = result.id
        self.picture = Picture(result.id, Kind.DRAFT, result.width, result.height, pixels, result=result)
        return {Topic.CANVAS}

    def forget_result(self, result_id: str) -> set[Topic]:
        """Take a result out of the history; a picture of it on the canvas stays."""
        self.shelves.remove(result_id)
        return {Topic.HISTORY}

    def search(self, query: str) -> set[Topic]:
        """Search the history; what is shown stays until the first page of what is found comes."""
        return {Topic.HISTORY} if self.shelves.search(query) else set()

    def forget_job(self, request_id: str) -> set[Topic]:
        """Take a job out of the queue."""
        self.queue.drop(request_id)
        return {Topic.QUEUE}

    def retried(self, request_id: str) -> set[Topic]:
        """A failed job is tried again, after all that waits."""
        self.queue.again(request_id)
        self.watching = True
        self.notice = None
        return {Topic.QUEUE, Topic.NOTICE}

    def cancelling(self, request_id: str) -> set[Topic]:
        """A running picture was told to stop; it is said at once, before the engine has done it."""
        if self.work is None or self.work.id != request_id:
            return set()
        self.work = replace(self.work, note="stopping", seconds_left=None)
        return {Topic.PROGRESS}

    def tell(self, sentence: str, *, error: bool = True, action: tuple[str, str] | None = None) -> set[Topic]:
        """Say one sentence to the person."""
        self.notice = Notice(sentence, error, action)
        return {Topic.NOTICE}

    def dismiss(self) -> set[Topic]:
        """Take the sentence away."""
        self.notice = None
        return {Topic.NOTICE}

    def model_changed(self) -> set[Topic]:
        """Another model was chosen: what is known of components was about the old one."""
        self.components = {}
        return {Topic.COMPONENTS, Topic.TIMES}

    # -- what was kept from before -----------------------------------------------------------------------------------

    def jobs_loaded(self, jobs: list[Job]) -> set[Topic]:
        """The durable queue, as it was when the studio started."""
        self.queue.put_before(jobs)
        return {Topic.QUEUE}

    def page_loaded(self, page: Page) -> set[Topic]:
        """A page of the library, or of what a search found in it."""
        if not self.shelves.add(page):
            return set()
        if not page.query and page.offset == 0:  # the newest tell best how long the next will take
            for result in reversed(page.results):
                self.times.record(result)
        return {Topic.HISTORY, Topic.TIMES}

    # -- what the engine says ----------------------------------------------------------------------------------------

    def apply(self, event: Event) -> set[Topic]:
        """Take in one event of the engine."""
        memory = {Topic.MEMORY} if self.runs.take(event) else set()
        return self._apply(event) | memory

    def _apply(self, event: Event) -> set[Topic]:
        match event:
            case EngineStarting():
                self.components = device.emptied(self.components)
                restarted = self.stage in (Stage.RESTARTING, Stage.STOPPED)
                self.stage = Stage.RESTARTING if restarted else Stage.STARTING
                return {Topic.ENGINE, Topic.COMPONENTS}
            case Ready():
                self.stage = Stage.LOADING if self._warming else Stage.READY
                self.accelerator, self.device = event.accelerator, event.device
                return {Topic.ENGINE}
            case WarmedUp():
                self._warming = False
                if self.stage is Stage.LOADING:
                    self.stage = Stage.READY
                if event.problem:
                    self.notice = Notice(event.problem)
                    return {Topic.ENGINE, Topic.NOTICE}
                return {Topic.ENGINE}
            case EngineStopped():
                return self._stopped(event)
            case Started():
                return self._started(event)
            case Progress():
                return self._progress(event)
            case Preview():
                return self._preview(event)
            case LedgerRecord():
                if not event.component:
                    return set()
                device.record(self.components, event)
                return {Topic.COMPONENTS}
            case Finished():
                return self._finished(event)
            case Failed():
                return self._failed(event)
            case SetAside():
                self.queue.set_state(event.id, State.SET_ASIDE, event.reason)
                self.work = None
                self.notice = Notice(event.reason, action=("Try again", f"retry:{event.id}"))
                return self._drop_preview(event.id) | {Topic.QUEUE, Topic.NOTICE, Topic.PROGRESS}
            case Cancelled():
                return self._cancelled(event.id)
            case _:
                return set()

    def warming(self) -> None:
        """The engine was asked to load a model; it is not ready before it has."""
        self._warming = True

    @property
    def history(self) -> list[Result]:
        """All results that were loaded, newest first."""
        return self.shelves.library.results

    # -- one event each ----------------------------------------------------------------------------------------------

    def _stopped(self, event: EngineStopped) -> set[Topic]:
        self.components = device.emptied(self.components)
        self.work = None
        self.stage = Stage.RESTARTING if event.will_restart else Stage.STOPPED
        if event.expected:
            return {Topic.ENGINE, Topic.COMPONENTS}
        while (job := self.queue.running) is not None:
            self.queue.set_state(job.request.id, State.WAITING)
        if not event.will_restart:
            reason = _without_full_stop(event.reason)
            sentence = f"{reason[:1].upper()}{reason[1:]}."
            if event.kind is ErrorKind.INTERNAL:
                sentence = f"The engine stopped: {reason}. Your prompt and the queue are kept."
            self.notice = Notice(sentence, action=("Start again", "restart"))
        return {Topic.ENGINE, Topic.COMPONENTS, Topic.PROGRESS, Topic.QUEUE, Topic.NOTICE}

    def _started(self, event: Started) -> set[Topic]:
        # somebody's request ends a warm-up: what is loaded stays, and the rest loads for the request
        self._warming = False
        self.stage = Stage.READY
        if event.request.draft:
            return {Topic.ENGINE}
        self.queue.set_state(event.id, State.RUNNING)
        if self._leads(event.id):
            self.work = Work(event.id)
        return {Topic.ENGINE, Topic.QUEUE, Topic.PROGRESS}

    def _progress(self, event: Progress) -> set[Topic]:
        if not self._leads(event.id) and not self._is_slow_draft(event.id):
            return set()
        self.work = Work(event.id, event.phase, event.step, event.steps, event.seconds_left, event.note)
        return {Topic.PROGRESS}

    def _preview(self, event: Preview) -> set[Topic]:
        if self.queue.find(event.id) is not None:
            wanted = self.watching and self._leads(event.id)
        else:
            wanted = self._is_slow_draft(event.id) and not self.watching
        if not wanted:
            return set()
        self.picture = Picture(event.id, Kind.PREVIEW, event.width, event.height, event.pixels)
        return {Topic.CANVAS}

    def _finished(self, event: Finished) -> set[Topic]:
        result = event.result
        self.times.record(result)
        changed = {Topic.TIMES, Topic.COMPONENTS}
        device.learn(self.components, result)
        if self.work is not None and self.work.id == event.id:
            self.work = None
            changed.add(Topic.PROGRESS)
        if result.draft:
            if event.id == self.draft_id:
                self.draft_seconds = result.seconds.get("total", self.draft_seconds)
            if event.id == self.draft_id and not self._shows_watched() and event.pixels:
                self.picture = Picture(event.id, Kind.DRAFT, result.width, result.height, event.pixels, result=result)
                changed.add(Topic.CANVAS)
            return changed
        self.forget_job(event.id)
        self.shelves.library.put_first(result)
        if self.watching:
            self.picture = _full(result)
            changed.add(Topic.CANVAS)
        return changed | {Topic.QUEUE, Topic.HISTORY}

    def _failed(self, event: Failed) -> set[Topic]:
        if self.queue.find(event.id) is not None:
            self.queue.set_state(event.id, State.FAILED, event.sentence)
            self.work = None
            # a request that cannot be done as it stands would only fail again
            again = event.kind is ErrorKind.INTERNAL
            self.notice = Notice(event.sentence, action=("Try again", f"retry:{event.id}") if again else None)
            return self._drop_preview(event.id) | {Topic.QUEUE, Topic.PROGRESS, Topic.NOTICE}
        # without an id it is about no request but about the studio's own files
        if not event.id or event.id == self.draft_id:
            self.notice = Notice(event.sentence)
            return self._end_draft(event.id) | {Topic.NOTICE}
        return set()

    def _cancelled(self, request_id: str) -> set[Topic]:
        if self.queue.find(request_id) is None:
            return self._end_draft(request_id)
        if self.work is not None and self.work.id == request_id:
            self.work = None
        return self._drop_preview(request_id) | self.forget_job(request_id) | {Topic.PROGRESS}

    def _end_draft(self, request_id: str) -> set[Topic]:
        """A draft ended without a picture. What a newer one will paint over may stay on the canvas until then."""
        changed = self._drop_preview(request_id) if request_id == self.draft_id else set()
        if self.work is not None and self.work.id == request_id:
            self.work = None
            changed = changed | {Topic.PROGRESS}
        return changed

    # -- small parts -------------------------------------------------------------------------------------------------

    def _drop_preview(self, request_id: str) -> set[Topic]:
        """An unfinished picture does not stay on the canvas; the newest finished one takes its place."""
        if self.picture is None or self.picture.id != request_id:
            return set()
        self.picture = _full(self.history[0]) if self.history else None
        return {Topic.CANVAS}

    def _leads(self, request_id: str) -> bool:
        """Whether it is the first of the pictures that are made beside each other: the one that is watched."""
        first = self.queue.running or self.queue.find(request_id)
        return first is not None and first.request.id == request_id

    def _is_slow_draft(self, request_id: str) -> bool:
        """Whether it is the newest draft and long enough in the making for its steps to be shown."""
        slow = self.draft_seconds is not None and self.draft_seconds > QUICK_DRAFT_SECONDS
        return slow and request_id == self.draft_id

    def _shows_watched(self) -> bool:
        return self.watching and self.picture is not None and self.picture.kind is not Kind.DRAFT


def _full(result: Result) -> Picture:
    return Picture(result.id, Kind.FULL, result.width, result.height, file=result.file, result=result)


def _without_full_stop(sentence: str) -> str:
    return sentence.rstrip().rstrip(".")
