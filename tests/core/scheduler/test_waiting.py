"""Drafts before requests, requests in order, warm-ups last."""

from __future__ import annotations

import threading

from core.messages import Phase, Request, WarmUp
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
    pace, key = Pace(), ("model", 128, 128)
    assert pace.left(key, Phase.ENCODE, 4) is None
    pace.note(key, Phase.ENCODE, 1.0)
    pace.note(key, Phase.DENOISE, 0.5)
    pace.note(key, Phase.DECODE, 2.0)
    assert pace.left(key, Phase.ENCODE, 4) == 1.0 + 4 * 0.5 + 2.0
    assert pace.left(key, Phase.DENOISE, 2) == 2 * 0.5 + 2.0
    assert pace.left(key, Phase.DECODE, 0) == 2.0
    assert pace.left(("model", 64, 64), Phase.DENOISE, 2) is None
    pace.note(key, Phase.DENOISE, 1.0)
    assert 0.5 < (pace.left(key, Phase.DENOISE, 1) or 0) - 2.0 < 1.0
