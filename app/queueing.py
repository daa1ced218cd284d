"""What a person does with jobs and with the engine: stop, remove, try again, start again."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject

from app.bridge import EngineBridge
from app.shown import Topic
from app.state import StudioState
from app.window import StudioWindow
from core.library.queue import Job, State


class JobActions(QObject):
    """Connects the queue, the notice's button and the header with the bridge; what changes is shown by `refresh`."""

    def __init__(
        self,
        window: StudioWindow,
        bridge: EngineBridge,
        state: StudioState,
        refresh: Callable[[set[Topic]], None],
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._bridge, self._state, self._refresh = bridge, state, refresh
        window.queue.retried.connect(self._retry)
        window.queue.removed.connect(self._remove)
        window.notice.acted.connect(self._act)
        window.header.start_again.connect(self._start_again)

    def stop(self, job: Job) -> None:
        """Stop a running picture, or drop one that waits."""
        self._bridge.cancel(job.request.id)
        if job.state is State.RUNNING:
            self._refresh(self._state.cancelling(job.request.id))
        else:
            self._refresh(self._state.forget_job(job.request.id))

    def _remove(self, request_id: str) -> None:
        job = self._state.queue.find(request_id)
        if job is None:
            return
        if job.state in (State.WAITING, State.RUNNING):
            self.stop(job)
        else:
            self._bridge.remove_job(request_id)
            self._refresh(self._state.forget_job(request_id))

    def _retry(self, request_id: str) -> None:
        self._bridge.retry(request_id)
        self._refresh(self._state.retried(request_id))

    def _act(self, action: str) -> None:
        """The button of a notice."""
        if action == "restart":
            self._start_again()
        elif action.startswith("retry:"):
            self._retry(action.removeprefix("retry:"))

    def _start_again(self) -> None:
        self._bridge.restart()
        self._refresh(self._state.dismiss())
