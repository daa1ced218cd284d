"""The real engine process: killed in every phase, flooded with prints, orphaned. No request and no picture is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.engine.client import EngineClient
from core.engine.process import ChildProcess
from core.library import metadata
from core.library.queue import JobQueue, State
from core.messages import (
    Cancelled,
    EngineStopped,
    Event,
    Finished,
    Heartbeat,
    Phase,
    Progress,
    Ready,
    Request,
    SetAside,
    Started,
)
from tests.events import result_of, wait_for

Tiny = Callable[[str], Path]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="uses signals")


@pytest.fixture
def queue_file(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite"


@pytest.fixture
def engine(tmp_path: Path, queue_file: Path) -> Iterator[EngineClient]:
    engine = EngineClient(JobQueue(queue_file), tmp_path / "engine.log")
    yield engine
    engine.close()


def pid_of(engine: EngineClient) -> int:
    transport = engine._transport
    assert isinstance(transport, ChildProcess)
    assert transport.pid is not None
    return transport.pid


def request_for(model: Path, out: Path, **changes: object) -> Request:
    options: dict[str, object] = {"steps": 12, "width": 384, "height": 384, "seed": 7, **changes}
    return Request(prompt="a red house by the sea", model=str(model), out=str(out), **options)  # type: ignore[arg-type]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # a zombie whose parent is gone and not yet reaped has ended all the same
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("phase", [Phase.LOAD, Phase.ENCODE, Phase.DENOISE, Phase.DECODE, Phase.SAVE])
def test_killed_in_a_phase_the_picture_still_comes(
    phase: Phase, tiny: Tiny, engine: EngineClient, tmp_path: Path
) -> None:
    out = tmp_path / "a.png"
    prompt = f"a red house, {phase}"  # its own encoding, so that the encode phase really runs
    request = Request(prompt=prompt, model=str(tiny("flux")), out=str(out), steps=6, width=384, height=384)
    engine.submit(request)
    engine.start()
    seen: list[Event] = []
    while wait_for(engine, Progress, seen=seen).phase is not phase:
        assert not any(isinstance(event, Finished) for event in seen)
    os.kill(pid_of(engine), signal.SIGKILL)
    result = result_of(engine, request.id, seen=seen)
    assert metadata.read_result(out) == result
    assert len([e for e in seen if isinstance(e, Finished)]) == 1
    stopped = [e for e in seen if isinstance(e, EngineStopped)]
    assert len(stopped) == 1
    assert "SIGKILL" in stopped[0].reason
    assert engine.jobs.jobs() == []


@pytest.mark.slow
def test_a_request_that_kills_twice_is_set_aside_and_the_next_one_runs(
    tiny: Tiny, engine: EngineClient, tmp_path: Path
) -> None:
    poison = request_for(tiny("flux"), tmp_path / "poison.png", steps=500)
    healthy = request_for(tiny("flux"), tmp_path / "healthy.png", width=64, height=64)
    engine.submit(poison)
    engine.submit(healthy)
    engine.start()
    for _ in range(2):
        assert wait_for(engine, Started).id == poison.id
        os.kill(pid_of(engine), signal.SIGKILL)
    aside = wait_for(engine, SetAside)
    assert aside.id == poison.id
    assert "2 times" in aside.reason
    result_of(engine, healthy.id)
    assert (tmp_path / "healthy.png").exists()
    (job,) = engine.jobs.jobs()
    assert (job.request, job.state, job.reason) == (poison, State.SET_ASIDE, aside.reason)


@pytest.mark.slow
def test_what_was_queued_runs_in_the_next_session(tiny: Tiny, tmp_path: Path, queue_file: Path) -> None:
    out = tmp_path / "a.png"
    first = EngineClient(JobQueue(queue_file), tmp_path / "engine.log")
    first.start()
    running = request_for(tiny("flux"), out, steps=300)
    waiting = request_for(tiny("flux"), tmp_path / "b.png", width=64, height=64)
    first.submit(running)
    first.submit(waiting)
    while wait_for(first, Progress).step < 2:
        pass
    begin = time.monotonic()
    first.close()
    assert time.monotonic() - begin < 5.0, "closing waits for the next block, not for the picture"

    queue = JobQueue(queue_file)
    assert [job.request for job in queue.jobs()] == [running, waiting]
    second = EngineClient(queue, tmp_path / "engine.log")
    second.start()
    try:
        assert wait_for(second, Started).id == running.id
        second.cancel(running.id)
        wait_for(second, Cancelled)
        result_of(second, waiting.id)
        assert queue.jobs() == []
    finally:
        second.close()


@pytest.mark.slow
def test_a_picture_finished_unheard_is_found(tiny: Tiny, engine: EngineClient, tmp_path: Path) -> None:
    """The file was written, the engine died before it could say so, and the window died as well."""
    engine.start()
    request = request_for(tiny("flux"), tmp_path / "a.png", width=64, height=64)
    engine.submit(request)
    result = result_of(engine, request.id)
    engine.jobs.add(request)
    engine.jobs.set_state(request.id, State.RUNNING)
    other = EngineClient(engine.jobs, tmp_path / "other.log")
    other.start()
    try:
        assert wait_for(other, Finished).result == result
        assert engine.jobs.jobs() == []
    finally:
        transport = other._transport
        other._closing = True
        if transport is not None:
            transport.stop()


@pytest.mark.slow
def test_the_heartbeat_goes_on_while_work_is_done(tiny: Tiny, engine: EngineClient, tmp_path: Path) -> None:
    engine.start()
    request = request_for(tiny("flux"), tmp_path / "a.png", steps=400)
    engine.submit(request)
    wait_for(engine, Started)
    beats = [wait_for(engine, Heartbeat, seconds=10) for _ in range(3)]
    assert beats[-1].busy == request.id
    engine.cancel(request.id)
    wait_for(engine, Cancelled)


@pytest.mark.slow
def test_prints_of_libraries_do_not_reach_the_events(
    engine: EngineClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, subprocess, sys, threading, time\n"
        "def shout():\n"
        "    time.sleep(1.0)\n"  # the interpreter is inside the worker by now
        "    for _ in range(20):\n"
        "        os.write(1, b'a native library prints\\n')\n"
        "        time.sleep(0.05)\n"
        "    subprocess.run([sys.executable, '-S', '-c', 'print(\"a subprocess prints\")'])\n"
        "if 'core.engine.worker' in ' '.join(sys.orig_argv):\n"
        "    threading.Thread(target=shout, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    engine.start()
    wait_for(engine, Ready)
    wait_for(engine, Heartbeat)
    log = tmp_path / "engine.log"
    end = time.monotonic() + 30
    while "a subprocess prints" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.1)
    assert log.read_text().count("a native library prints") == 20
    assert "a subprocess prints" in log.read_text()
    wait_for(engine, Heartbeat)


@pytest.mark.slow
def test_the_log_of_a_running_engine_does_not_grow_without_end(
    engine: EngineClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys, threading, time\n"
        "def shout():\n"
        "    time.sleep(1.0)\n"  # the interpreter is inside the worker by now
        "    for _ in range(60):\n"
        "        os.write(1, b'a native library prints a lot\\n' * 4000)\n"
        "    while True:\n"
        "        os.write(1, b'and goes on\\n')\n"
        "        time.sleep(0.1)\n"
        "if 'core.engine.worker' in ' '.join(sys.orig_argv):\n"
        "    threading.Thread(target=shout, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    engine.start()
    wait_for(engine, Ready)
    log, old = tmp_path / "engine.log", tmp_path / "engine.old.log"
    end = time.monotonic() + 30
    while not (old.exists() and log.read_bytes().startswith(b"and goes on")) and time.monotonic() < end:
        time.sleep(0.1)
    assert old.stat().st_size > 5_000_000
    assert b"a native library prints a lot" in old.read_bytes()
    assert set(log.read_bytes().splitlines()) == {b"and goes on"}


@pytest.mark.slow
def test_the_engine_ends_when_its_parent_is_killed(tiny: Tiny, tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from core.engine.client import EngineClient
from core.library.queue import JobQueue
from core.messages import Request, Progress
from tests.events import wait_for
engine = EngineClient(JobQueue(None), Path({str(tmp_path / "engine.log")!r}))
engine.start()
model, out = {str(tiny("flux"))!r}, {str(tmp_path / "a.png")!r}
engine.submit(Request(prompt="a", model=model, steps=1000, width=384, height=384, out=out))
while wait_for(engine, Progress).step < 1: pass
print(engine._transport.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    end = time.monotonic() + 15
    while is_alive(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not is_alive(child)


def test_an_engine_that_never_starts_gives_up_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('this torch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    engine = EngineClient(JobQueue(None), tmp_path / "engine.log")
    engine.start()
    try:
        stops = []
        while not stops or stops[-1].will_restart:
            stops.append(wait_for_stop(engine))
        assert len(stops) == 3
        assert "exit code 1" in stops[-1].reason
        assert "this torch is broken" in (tmp_path / "engine.log").read_text()
        engine.restart()
        assert wait_for_stop(engine).will_restart
    finally:
        engine.close()


def wait_for_stop(engine: EngineClient) -> EngineStopped:
    while not isinstance(event := engine.next_event(60), EngineStopped):
        assert event is not None, "the engine said nothing for a minute"
    return event
