"""The engine as a thread of this process: for tests and for commands that end with one picture."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from core.engine.client import Client
from core.engine.libraries import prepare
from core.library.queue import JobQueue
from core.messages import Command, Event, ResidencyError


class _Thread:
    """A transport whose engine is the scheduler, run by a thread."""

    def __init__(self, accelerator: str) -> None:
        self._accelerator = accelerator
        self._pending: list[Command] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def start(self, on_event: Callable[[Event], None], on_exit: Callable[[str], None]) -> None:
        def run() -> None:
            reason = "the engine ended"
            try:
                prepare()
                from core.scheduler.loop import Scheduler  # leads to torch; the caller should not wait for it

                scheduler = Scheduler(on_event, self._accelerator)
                with self._lock:
                    self._scheduler = scheduler
                    for command in self._pending:
                        scheduler.command(command)
                    self._pending.clear()
                    if self._stopped:
                        scheduler.stop()
                scheduler.run()
            except ResidencyError as error:
                reason = str(error)
            except Exception:  # reported as the engine's end, as a child's death would be
                reason = traceback.format_exc()
            on_exit(reason)

        self._thread = threading.Thread(target=run, name="engine", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        with self._lock:
            scheduler = getattr(self, "_scheduler", None)
            if scheduler is None:
                self._pending.append(command)
                return
        scheduler.command(command)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            scheduler = getattr(self, "_scheduler", None)
        if scheduler is not None:
            scheduler.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


class InProcessEngine(Client):
    """The client's interface without a child process. `accelerator` is one of core.hardware.accelerator.KINDS."""

    def __init__(self, jobs: JobQueue | None = None, accelerator: str = "auto") -> None:
        """Keep the queue in memory unless given one."""
        super().__init__(lambda: _Thread(accelerator), jobs or JobQueue(None))
