"""The engine as a thread of this process: for tests and for commands that end with one picture."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from core.engine.client import Client
from core.engine.libraries import prepare
from core.engine.transport import OnExit
from core.library.queue import JobQueue
from core.messages import Command, ErrorKind, Event, ResidencyError

if TYPE_CHECKING:
    from core.hardware.interface import Accelerator
    from core.scheduler.loop import Scheduler


class _Thread:
    """A transport whose engine is the scheduler, run by a thread."""

    def __init__(self, accelerator: str | Accelerator) -> None:
        self._accelerator = accelerator
        self._lock = threading.Lock()
        self._pending: list[Command] = []  # what came before there was a scheduler to take it
        self._scheduler: Scheduler | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self, on_event: Callable[[Event], None], on_exit: OnExit) -> None:
        """Start the thread, which imports torch by itself."""
        self._thread = threading.Thread(target=self._run, args=(on_event, on_exit), name="engine", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        """Hand a command to the scheduler, or keep it until there is one."""
        with self._lock:
            if self._scheduler is None:
                self._pending.append(command)
                return
        self._scheduler.command(command)

    def stop(self) -> None:
        """Stop the scheduler and wait for its thread."""
        with self._lock:
            self._stopped = True
        if self._scheduler is not None:
            self._scheduler.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, on_event: Callable[[Event], None], on_exit: OnExit) -> None:
        try:
            prepare()
            from core.scheduler.loop import Scheduler  # leads to torch; the caller should not wait for it

            scheduler = Scheduler(on_event, self._accelerator)
            self._hand_over(scheduler)
            scheduler.run()
        except ResidencyError as error:
            on_exit(str(error), error.kind)
        except Exception as error:  # reported as the engine's end, as a child's death would be
            traceback.print_exc()
            on_exit(f"the engine broke down ({type(error).__name__}: {error})")
        else:
            on_exit("the engine ended", ErrorKind.INTERNAL)

    def _hand_over(self, scheduler: Scheduler) -> None:
        """Give the scheduler what waits, in order; without the lock, since its events lead back to the sender's."""
        while True:
            with self._lock:
                pending, self._pending = self._pending, []
                if not pending:
                    self._scheduler = scheduler
                    if self._stopped:
                        scheduler.stop()
                    return
            for command in pending:
                scheduler.command(command)


class InProcessEngine(Client):
    """The client's interface without a child process.

    `accelerator` is one of core.hardware.accelerator.KINDS, or an accelerator.
    """

    def __init__(self, jobs: JobQueue | None = None, accelerator: str | Accelerator = "auto") -> None:
        """Keep the queue in memory unless given one."""
        super().__init__(lambda: _Thread(accelerator), jobs or JobQueue(None))
