"""The queue as the window shows it: jobs in the order in which they run. Plain data, no Qt."""

from __future__ import annotations

from core.library.queue import Job, State


class Jobs(list[Job]):
    """Waiting, running, failed and set-aside jobs."""

    @property
    def running(self) -> Job | None:
        """The picture being made."""
        return next((job for job in self if job.state is State.RUNNING), None)

    @property
    def next(self) -> Job | None:
        """What a person means who cancels: the running picture, else the next one that waits."""
        return self.running or next((job for job in self if job.state is State.WAITING), None)

    @property
    def busy(self) -> bool:
        """Whether any picture is being made or waits to be."""
        return self.next is not None

    def find(self, request_id: str) -> Job | None:
        """The job of a request."""
        return next((job for job in self if job.request.id == request_id), None)

    def set_state(self, request_id: str, state: State, reason: str = "") -> None:
        """Move a job to a state."""
        self[:] = [Job(job.request, state, job.deaths, reason) if job.request.id == request_id else job for job in self]

    def drop(self, request_id: str) -> None:
        """Take a job out."""
        self[:] = [job for job in self if job.request.id != request_id]

    def again(self, request_id: str) -> None:
        """Let a failed job wait once more, after all others."""
        job = self.find(request_id)
        if job is not None:
            self.drop(request_id)
            self.append(Job(job.request, State.WAITING))

    def put_before(self, jobs: list[Job]) -> None:
        """Take in the jobs of an earlier session, which come first."""
        known = {job.request.id for job in jobs}
        self[:] = jobs + [job for job in self if job.request.id not in known]
