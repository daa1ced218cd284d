"""The durable queue keeps requests in order, whatever ends in between."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from core.library.queue import JobQueue, State
from core.messages import How, Request, UserError


def test_jobs_outlive_the_process_that_added_them(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "new" / "queue.sqlite")
    requests = [Request(prompt=f"picture {i}", seed=i) for i in range(5)]
    for request in requests:
        queue.add(request)
    queue.set_state(requests[1].id, State.RUNNING)
    queue.remove(requests[3].id)
    queue._owner.close()  # type: ignore[union-attr]
    del queue  # no close(): a killed process closes nothing, and the system takes its locks away
    again = JobQueue(tmp_path / "new" / "queue.sqlite")
    assert [job.request for job in again.jobs()] == [requests[i] for i in (0, 1, 2, 4)]
    assert [job.request for job in again.jobs(State.RUNNING)] == [requests[1]]


def test_deaths_are_counted_for_each_job(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "queue.sqlite")
    first, second = Request(prompt="a"), Request(prompt="b")
    queue.add(first)
    queue.add(second)
    assert [queue.count_death(first.id), queue.count_death(first.id)] == [1, 2]
    job = queue.get(second.id)
    assert job is not None
    assert job.deaths == 0
    assert queue.count_death("unknown") == 0


def test_a_state_keeps_its_reason(tmp_path: Path) -> None:
    queue = JobQueue(None)
    request = Request(prompt="a")
    queue.add(request)
    queue.set_state(request.id, State.FAILED, "too large")
    job = queue.get(request.id)
    assert job is not None
    assert (job.state, job.reason) == (State.FAILED, "too large")
    queue.close()


def test_only_one_process_owns_a_queue(tmp_path: Path) -> None:
    first = JobQueue(tmp_path / "queue.sqlite")
    with pytest.raises(UserError, match="already open"):
        JobQueue(tmp_path / "queue.sqlite")
    first.close()
    JobQueue(tmp_path / "queue.sqlite").close()
    owner = (
        "import os\nfrom pathlib import Path\nfrom core.library.queue import JobQueue\n"
        f"queue = JobQueue(Path({str(tmp_path / 'queue.sqlite')!r}))\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", owner], timeout=60, check=False)
    JobQueue(tmp_path / "queue.sqlite").close()


def test_a_job_can_wait_again_with_a_clean_record() -> None:
    queue = JobQueue(None)
    first, second = Request(prompt="a"), Request(prompt="b")
    queue.add(first)
    queue.add(second)
    queue.count_death(first.id)
    queue.set_state(first.id, State.SET_ASIDE, "it killed the engine")
    queue.requeue(first.id)
    assert [(job.request, job.state, job.deaths, job.reason) for job in queue.jobs()] == [
        (second, State.WAITING, 0, ""),
        (first, State.WAITING, 0, ""),
    ]


def test_a_damaged_queue_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    path.write_bytes(b"this was a database once, and is none any more" * 100)
    queue = JobQueue(path)
    queue.add(Request(prompt="a"))
    assert len(queue.jobs()) == 1
    queue.close()
    assert len(list(tmp_path.glob("queue.sqlite.damaged-*"))) == 1


def test_a_row_of_another_version_is_passed_over(tmp_path: Path) -> None:
    queue = JobQueue(None)
    queue.add(Request(prompt="a"))
    queue._execute("INSERT INTO jobs (id, position, request, state, created) VALUES ('x', 9, '{}', 'new state', 0)")
    assert [job.request.prompt for job in queue.jobs()] == ["a"]


def test_what_a_person_fixed_is_kept_and_what_another_version_adds_is_passed_over(tmp_path: Path) -> None:
    how = How(prefer=0.9, formats={"transformer": "Q6_K"}, residency={"vae": "resident"}, cache=False)
    queue = JobQueue(tmp_path / "queue.sqlite")
    queue.add(request := Request(prompt="a", how=how))
    queue.close()
    added = b'{"id":"b","prompt":"b","how":{"slots":3,"a_choice_to_come":[1]},"more":2}'
    with contextlib.closing(sqlite3.connect(tmp_path / "queue.sqlite", isolation_level=None)) as database:
        row = "INSERT INTO jobs (id, position, request, state, created) VALUES ('b', 9, ?, 'waiting', 0)"
        database.execute(row, (added,))
    kept = [job.request for job in JobQueue(tmp_path / "queue.sqlite").jobs()]
    assert kept == [request, Request(id="b", prompt="b", how=How(slots=3))]
