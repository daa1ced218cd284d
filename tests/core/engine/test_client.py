"""The client's books, without an engine: what it asks for, remembers and gives up."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from core.engine import client as client_module
from core.engine.client import Client
from core.engine.transport import OnExit
from core.library.queue import JobQueue, State
from core.messages import (
    Cancel,
    Cancelled,
    Command,
    EngineStopped,
    ErrorKind,
    Event,
    Failed,
    Ready,
    Request,
    SetAside,
    Started,
    Submit,
    UserError,
)

READY = Ready("cpu", "CPU", "2.13.0", 0, 0)


class Wire:
    """A transport that notes commands and lets the test speak for the engine."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.say: Callable[[Event], None]
        self.die: OnExit

    def start(self, on_event: Callable[[Event], None], on_exit: OnExit) -> None:
        self.say, self.die = on_event, on_exit

    def send(self, command: Command) -> None:
        self.sent.append(command)

    def stop(self) -> None:
        self.die("stopped")


class Bench:
    """A client whose engines are wires; a dead engine is followed by the next one at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wires: list[Wire] = []
        self.events: list[Event] = []
        monkeypatch.setattr(client_module, "RESTART_PAUSE_SECONDS", 0.0)
        self.client = Client(self._wire, JobQueue(None))
        self.client.start()

    def _wire(self) -> Wire:
        self.wires.append(Wire())
        return self.wires[-1]

    @property
    def wire(self) -> Wire:
        """The engine of now."""
        return self.wires[-1]

    def die(self) -> None:
        """Let the engine die, and wait for the next one if there is to be one."""
        self.wire.die("killed")
        stopped = [event for event in self.drain() if isinstance(event, EngineStopped)]
        while stopped[-1].will_restart and self.client._transport is None:
            pass

    def drain(self) -> list[Event]:
        """All events since the last time."""
        self.events = []
        while (event := self.client.next_event(0.05)) is not None:
            self.events.append(event)
        return self.events


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_new_draft_cancels_each_older_one_once(bench: Bench) -> None:
    for i in range(40):
        bench.client.submit(Request(id=f"{i}", prompt="a", draft=True))
    cancels = [command.id for command in bench.wire.sent if isinstance(command, Cancel)]
    assert cancels == [f"{i}" for i in range(39)]


def test_superseded_drafts_do_not_come_back_after_a_death(bench: Bench) -> None:
    for i in range(4):
        bench.client.submit(Request(id=f"{i}", prompt="a", draft=True))
    bench.die()
    assert {event.id for event in bench.events if isinstance(event, Cancelled)} == {"0", "1", "2"}
    assert [command.request.id for command in bench.wire.sent if isinstance(command, Submit)] == ["3"]


def test_a_draft_is_made_again_after_a_death_while_nothing_newer_was_asked_for(bench: Bench) -> None:
    draft = Request(prompt="a red house", draft=True)
    bench.client.submit(draft)
    bench.wire.say(Started(draft.id, draft))
    bench.die()
    assert not any(isinstance(event, Failed) for event in bench.events)
    assert bench.wire.sent == [Submit(draft)]
    newer = Request(prompt="a blue house", draft=True)
    bench.wire.say(Started(draft.id, draft))
    bench.client.submit(newer)
    bench.die()
    assert bench.wire.sent == [Submit(newer)]


def test_a_draft_that_kills_the_engine_twice_is_given_up_with_a_sentence(bench: Bench) -> None:
    draft = Request(prompt="a red house", draft=True)
    bench.client.submit(draft)
    for _ in range(2):
        bench.wire.say(Started(draft.id, draft))
        bench.die()
    (failed,) = [event for event in bench.events if isinstance(event, Failed)]
    assert failed.id == draft.id
    assert "2 times" in failed.sentence
    assert bench.wire.sent == []


def test_a_cancelled_request_is_not_made_again_after_a_death(bench: Bench) -> None:
    request = Request(prompt="a")
    bench.client.submit(request)
    bench.wire.say(Started(request.id, request))
    bench.client.cancel(request.id)
    bench.die()
    assert [event.id for event in bench.events if isinstance(event, Cancelled)] == [request.id]
    assert bench.wire.sent == []
    assert bench.client.jobs.jobs() == []


def test_what_was_made_beside_each_other_when_the_engine_died_is_made_apart(bench: Bench) -> None:
    together = [Request(prompt=f"a house, {n}", out=f"{n}.png") for n in range(3)]
    later = Request(prompt="a boat", out="later.png")
    for request in (*together, later):
        bench.client.submit(request)
    for request in together:
        bench.wire.say(Started(request.id, request))
    bench.die()
    bench.wire.say(READY)
    again = [command for command in bench.wire.sent if isinstance(command, Submit)]
    assert [(command.request.id, command.alone) for command in again] == [
        *((request.id, True) for request in together),
        (later.id, False),
    ]
    # whoever it was, it is the only one that is set aside
    bench.wire.say(Started(together[0].id, together[0]))
    bench.die()
    aside = [event.id for event in bench.events if isinstance(event, SetAside)]
    assert aside == [together[0].id]


def test_a_warm_up_that_kills_the_engine_is_not_tried_for_ever(bench: Bench) -> None:
    waiting = Request(prompt="a")
    bench.client.submit(waiting)
    bench.client.warm_up("far too large")
    bench.wire.say(READY)
    bench.die()
    assert bench.wire.sent == [Submit(waiting)]


def test_a_cancel_of_what_nobody_knows_is_nothing(bench: Bench) -> None:
    bench.client.cancel("unknown")
    assert bench.wire.sent == []
    assert not any(isinstance(event, Cancelled) for event in bench.drain())


def test_a_failed_request_waits_again_when_told_to(bench: Bench) -> None:
    request = Request(prompt="a")
    bench.client.submit(request)
    bench.wire.say(Failed(request.id, ErrorKind.USER, "too large"))
    assert bench.client.jobs.jobs(State.FAILED)
    bench.client.retry(request.id)
    assert [job.state for job in bench.client.jobs.jobs()] == [State.WAITING]
    assert bench.wire.sent == [Submit(request), Submit(request)]


@pytest.mark.parametrize("change", [{"seed": 10**25}, {"prompt": "a \udc80"}])
@pytest.mark.parametrize("draft", [True, False])
def test_what_cannot_be_written_down_is_refused_at_once(bench: Bench, change: dict[str, object], draft: bool) -> None:
    request = Request(**{"prompt": "a", **change}, draft=draft)  # type: ignore[arg-type]
    with pytest.raises(UserError):
        bench.client.submit(request)
    assert bench.wire.sent == []


def test_a_full_disk_does_not_silence_the_engine(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    request = Request(prompt="a")
    bench.client.submit(request)
    monkeypatch.setattr(JobQueue, "set_state", full)
    bench.wire.say(Started(request.id, request))
    bench.wire.say(READY)
    events = bench.drain()
    assert READY in events
    assert any("disk is full" in event.sentence for event in events if isinstance(event, Failed))


def test_relative_paths_mean_the_same_to_the_engine(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bench.client.submit(Request(prompt="a", model="./mine", out="a.png"))
    (command,) = bench.wire.sent
    assert isinstance(command, Submit)
    assert (command.request.model, command.request.out) == (f"{tmp_path}/mine", f"{tmp_path}/a.png")
