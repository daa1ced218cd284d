"""The durable queue keeps requests in order, whatever ends in between."""

from __future__ import annotations

from pathlib import Path

from core.library.queue import JobQueue, State
from core.messages import Request


def test_jobs_outlive_the_process_that_added_them(tmp_path: Path) -> None:
    queue = JobQueue(tmp_path / "new" / "queue.sqlite")
    requests = [Request(prompt=f"picture {i}", seed=i) for i in range(5)]
    for request in requests:
        queue.add(request)
    queue.set_state(requests[1].id, State.RUNNING)
    queue.remove(requests[3].id)
    # no close(): a killed process closes nothing
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
