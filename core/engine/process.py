"""The engine as a child process: commands to its stdin, events from its stdout, prints to a log file."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from core.engine.frames import frame, read_events
from core.engine.transport import OnExit
from core.messages import Command, Event

STOP_SECONDS = 5.0  # how long the child may take to leave by itself before it is killed

WORKER_COMMAND = (sys.executable, "-m", "core.engine.worker")


class ChildProcess:
    """One engine process. Make a new one for each start."""

    def __init__(self, log: Path, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._log = log.absolute()  # the child lives in another folder
        self._command = [*command, str(self._log)]
        self._commands: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []

    @property
    def pid(self) -> int | None:
        """The process id, once started."""
        return self._process.pid if self._process else None

    def start(self, on_event: Callable[[Event], None], on_exit: OnExit) -> None:
        """Start the process. Raises OSError when it cannot be started at all."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=str(Path(__file__).resolve().parents[2]),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        reader = threading.Thread(target=self._read, args=(on_event, on_exit), name="engine-reader", daemon=True)
        writer = threading.Thread(target=self._write, name="engine-writer", daemon=True)
        self._threads = [reader, writer]
        for thread in self._threads:
            thread.start()

    def send(self, command: Command) -> None:
        """Queue a command for the writer thread, so that a busy engine never blocks the caller."""
        self._commands.put(frame(command))  # here, so that what cannot be encoded is the caller's to know

    def stop(self) -> None:
        """Close the child's stdin, wait for it, kill it if it does not leave."""
        process = self._process
        if process is None:
            return
        self._commands.put(None)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(STOP_SECONDS)

    def _write(self) -> None:
        assert self._process is not None
        stdin = cast(BinaryIO, self._process.stdin)
        # the pipe breaks when the process ends, which the reader sees and reports
        with contextlib.suppress(OSError):
            while (command := self._commands.get()) is not None:
                stdin.write(command)
                stdin.flush()
        with contextlib.suppress(OSError):
            stdin.close()

    def _read(self, on_event: Callable[[Event], None], on_exit: OnExit) -> None:
        assert self._process is not None
        stdout = cast(BinaryIO, self._process.stdout)
        broken = ""
        try:
            for event in read_events(stdout):
                on_event(event)
        except Exception as error:  # whatever it was, a process that nobody listens to must not live on
            broken = f"its events could not be read ({error})"
            self._process.kill()
        status = self._process.wait()
        self._commands.put(None)
        stdout.close()
        on_exit(broken or _describe(status))


def _describe(status: int) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
        return f"the engine was ended by {name}{hint}"
    return f"the engine ended with exit code {status}"
