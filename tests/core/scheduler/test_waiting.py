"""Drafts before requests, requests in order, warm-ups last."""

from __future__ import annotations

import threading
import time

import pytest

from core.hardware.profile import load as load_card
from core.messages import Phase, Request, WarmUp
from core.models.profile import load as load_model
from core.planning.job import job_of
from core.planning.solve import solve
from core.scheduler.pace import Pace
from core.scheduler.waiting import Waiting


def test_the_order() -> None:
    waiting = Waiting()
    first, second = Request(prompt="first"), Request(prompt="second")
    draft = Request(prompt="draft", draft=True)
    for item in (WarmUp("old"), first, second, draft, WarmUp("new")):
        waiting.add(item)
    assert [waiting.next() for _ in range(4)] == [draft, first, second, WarmUp("new")]


def test_what_waits_can_be_taken_out() -> None:
    waiting = Waiting()
    request = Request(prompt="a")
    waiting.add(request)
    assert waiting.remove(request.id)
    assert not waiting.remove(request.id)


def test_next_waits_and_stop_ends_it() -> None:
    waiting = Waiting()
    taken: list[object] = []

    def take() -> None:
        taken.append(waiting.next())
        taken.append(waiting.next())

    thread = threading.Thread(target=take)
    thread.start()
    request = Request(prompt="a")
    waiting.add(request)
    waiting.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert taken[-1] is None
    assert taken[0] in (request, None)


def test_the_pace_tells_what_is_left() -> None:
    job = job_of(load_model("starter"), steps=4)
    plan, _ = solve(job, load_card("rx-7800-xt"))
    encode, denoise, decode = plan.phases
    pace = Pace(plan)
    left = decode.seconds - decode.load_seconds
    whole = encode.seconds - encode.load_seconds + 4 * denoise.step_seconds + left
    assert pace.left(Phase.LOAD, 4) is None
    assert pace.left(Phase.ENCODE, 4) == pytest.approx(whole)
    assert pace.left(Phase.DECODE, 0) == pytest.approx(left)
    pace.begin()
    time.sleep(0.02)
    pace.lap()
    # what was measured counts from the first step on
    assert pace.step_seconds >= 0.02
    assert pace.left(Phase.DENOISE, 3) == pytest.approx(3 * pace.step_seconds + left)
