"""The durable queue: requests that wait or run, kept in SQLite so that they outlive any engine and any window."""

from __future__ import annotations

import sqlite3
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from core.library import database
from core.messages import Request, UserError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    request BLOB NOT NULL,
    state TEXT NOT NULL,
    deaths INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL
)
"""


class State(StrEnum):
    """Where a job stands. A finished or cancelled job leaves the queue; its picture is in the library."""

    WAITING = "waiting"
    RUNNING = "running"
    FAILED = "failed"
    SET_ASIDE = "set_aside"


class Job(msgspec.Struct, frozen=True):
    """A request and its standing. `deaths` counts the engine processes that ended while it ran."""

    request: Request
    state: State
    deaths: int = 0
    reason: str = ""


class JobQueue:
    """Jobs in the order in which they will run. Any thread may call; every change is on disk on return."""

    def __init__(self, path: Path | None) -> None:
        """Open the queue kept in `path`; None keeps it in memory, for runs that end with their command.

        Raises:
            UserError: another process has this queue open.
        """
        self._owner = _own(path.with_suffix(".lock")) if path is not None else None
        self._lock = threading.Lock()
        self._database = database.connect(path, _SCHEMA)
        self._database.execute("PRAGMA synchronous=FULL")

    def add(self, request: Request) -> None:
        """Put a request at the end."""
        self._execute(
            "INSERT INTO jobs (id, position, request, state, created) "
            "VALUES (?, (SELECT COALESCE(MAX(position), 0) + 1 FROM jobs), ?, ?, ?)",
            (request.id, msgspec.json.encode(request), State.WAITING, time.time()),
        )

    def jobs(self, *states: State) -> list[Job]:
        """All jobs in order, or those in the given states."""
        rows = self._execute("SELECT request, state, deaths, reason FROM jobs ORDER BY position")
        jobs = [job for row in rows if (job := _decode(row)) is not None]
        return [job for job in jobs if not states or job.state in states]

    def get(self, job_id: str) -> Job | None:
        """The job of that id, if it is still in the queue."""
        return next((job for job in self.jobs() if job.request.id == job_id), None)

    def set_state(self, job_id: str, state: State, reason: str = "") -> None:
        """Move a job to a state, with the reason a person will read."""
        self._execute("UPDATE jobs SET state = ?, reason = ? WHERE id = ?", (state, reason, job_id))

    def requeue(self, job_id: str) -> None:
        """Let a job wait once more, at the end and with a clean record."""
        self._execute(
            "UPDATE jobs SET state = ?, reason = '', deaths = 0, "
            "position = (SELECT MAX(position) + 1 FROM jobs) WHERE id = ?",
            (State.WAITING, job_id),
        )

    def count_death(self, job_id: str) -> int:
        """Note that the engine died while this job ran; returns how often that has happened to it."""
        self._execute("UPDATE jobs SET deaths = deaths + 1 WHERE id = ?", (job_id,))
        rows = self._execute("SELECT deaths FROM jobs WHERE id = ?", (job_id,))
        return int(rows[0][0]) if rows else 0

    def remove(self, job_id: str) -> None:
        """Take a job out: it finished, or its person dropped it."""
        self._execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def close(self) -> None:
        """Close the database; the jobs stay on disk."""
        with self._lock:
            self._database.close()
        if self._owner is not None:
            self._owner.close()

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()


def _own(path: Path) -> sqlite3.Connection:
    """Hold the queue's lock for as long as this process lives: a transaction that is never ended.

    SQLite's file locks are released by every system when a process dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=0, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        raise UserError("Residency is already open; use that window, or close it first.") from error
    return connection


def _decode(row: tuple[Any, ...]) -> Job | None:
    """A row as a job; None for one that another version wrote and this one cannot read."""
    try:
        return Job(msgspec.json.decode(row[0], type=Request), State(row[1]), row[2], row[3])
    except (msgspec.MsgspecError, ValueError):
        return None
