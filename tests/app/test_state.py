"""What the studio shows after each event of the engine; no Qt here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.shelf import Page
from app.shown import Kind, Stage, Topic
from app.state import StudioState
from core.library.queue import Job, State
from core.messages import (
    Cancelled,
    EngineStarting,
    EngineStopped,
    ErrorKind,
    Failed,
    Finished,
    LedgerRecord,
    Phase,
    Preview,
    Progress,
    Ready,
    Request,
    Result,
    SetAside,
    Started,
    WarmedUp,
)
from tests.app.fake_engine import COMPONENTS, make_result, plain_picture

READY = Ready("cpu", "CPU", "2.13.0", 0, 0)


def result_of(request: Request, seconds: float = 1.0) -> Result:
    return make_result(request, plain_picture(request, 1.0), seconds, request.steps or 8)


def preview(request: Request, step: int = 1) -> Preview:
    return Preview(request.id, step, 8, 2, 2, bytes(12))


def draft_of(state: StudioState, prompt: str = "a red house", seconds: float = 0.3) -> Finished:
    request = Request(prompt=prompt, draft=True, steps=3)
    state.submitted(request)
    return Finished(request.id, result_of(request, seconds), b"x" * 128 * 128 * 3)


@pytest.fixture
def state() -> StudioState:
    return StudioState()


def test_state_does_not_import_qt() -> None:
    # `app` itself must not, or the state could not be used without a screen
    code = "import sys, app.state; sys.exit(any(name.startswith('PySide6') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_engine_stages(state: StudioState) -> None:
    state.warming()
    state.apply(EngineStarting(1))
    assert state.stage is Stage.STARTING
    state.apply(READY)
    assert state.stage is Stage.LOADING
    state.apply(WarmedUp("starter", 1.0))
    assert state.stage is Stage.READY
    state.apply(EngineStopped(False, "it fell over.", True))
    assert state.stage is Stage.RESTARTING
    assert state.notice is None  # it comes back by itself: nothing to tell
    state.apply(EngineStarting(2))
    assert state.stage is Stage.RESTARTING


def test_a_request_ends_the_warm_up(state: StudioState) -> None:
    state.warming()
    state.apply(READY)
    request = Request(prompt="a")
    state.apply(Started(request.id, request))
    assert state.stage is Stage.READY


def test_an_engine_that_gives_up_is_told_with_a_button(state: StudioState) -> None:
    state.apply(EngineStopped(False, "the engine ended with exit code 3", False))
    assert state.stage is Stage.STOPPED
    assert state.notice is not None
    assert state.notice.sentence.count("exit code 3") == 1
    assert state.notice.action == ("Start again", "restart")


def test_what_the_person_can_change_is_said_as_it_is(state: StudioState) -> None:
    state.apply(EngineStopped(False, "Residency is already open; use that window.", kind=ErrorKind.USER))
    assert state.notice is not None
    assert state.notice.sentence == "Residency is already open; use that window."
    state.apply(WarmedUp("starter", 0.1, "vae/model.safetensors is truncated; download it again."))
    assert state.notice.sentence == "vae/model.safetensors is truncated; download it again."
    state.dismiss()
    state.apply(Failed("", ErrorKind.USER, "The queue could not be written to disk; free some space."))
    assert state.notice is not None
    assert state.notice.sentence.startswith("The queue could not be written")


def test_a_full_picture_from_waiting_to_history(state: StudioState) -> None:
    request = Request(prompt="a red house", out="a.png")
    assert Topic.QUEUE in state.submitted(request)
    assert [job.state for job in state.queue] == [State.WAITING]
    state.apply(Started(request.id, request))
    assert state.queue.running is not None
    state.apply(Progress(request.id, Phase.DENOISE, 2, 8, 1.5))
    assert state.work is not None
    assert (state.work.step, state.work.seconds_left) == (2, 1.5)
    assert Topic.CANVAS in state.apply(preview(request))
    assert state.picture is not None
    assert state.picture.kind is Kind.PREVIEW
    changed = state.apply(Finished(request.id, result_of(request)))
    assert {Topic.HISTORY, Topic.CANVAS, Topic.QUEUE} <= changed
    assert state.queue == []
    assert state.work is None
    assert state.picture.kind is Kind.FULL
    assert [result.id for result in state.history] == [request.id]


def test_of_pictures_made_beside_each_other_the_first_is_watched(state: StudioState) -> None:
    first, second = Request(prompt="a red house", out="a.png"), Request(prompt="a boat", out="b.png")
    for request in (first, second):
        state.submitted(request)
    for request in (first, second):
        state.apply(Started(request.id, request))
    state.apply(Progress(first.id, Phase.DENOISE, 2, 8, 1.5))
    state.apply(Progress(second.id, Phase.DENOISE, 1, 8, 2.5))
    assert state.work is not None
    assert (state.work.id, state.work.step) == (first.id, 2)
    state.apply(preview(second))
    assert state.picture is None
    state.apply(preview(first))
    assert state.picture is not None
    state.apply(Finished(first.id, result_of(first)))
    state.apply(Progress(second.id, Phase.DECODE, 0, 8, 0.5))
    assert state.work.id == second.id
    state.apply(Finished(second.id, result_of(second)))
    assert state.work is None
    assert state.queue == []
    assert [result.id for result in state.history] == [second.id, first.id]


def test_a_draft_is_shown_but_not_kept(state: StudioState) -> None:
    finished = draft_of(state)
    assert Topic.CANVAS in state.apply(finished)
    assert state.picture is not None
    assert state.picture.kind is Kind.DRAFT
    assert state.history == []


def test_a_superseded_draft_is_not_shown(state: StudioState) -> None:
    old = draft_of(state, "a red")
    draft_of(state, "a red house")
    assert Topic.CANVAS not in state.apply(old)
    assert state.picture is None


def test_a_late_draft_does_not_cover_the_picture_asked_for(state: StudioState) -> None:
    draft = draft_of(state)
    full = Request(prompt="a red house", out="a.png")
    state.submitted(full)
    state.apply(preview(full))
    state.apply(draft)
    assert state.picture is not None
    assert state.picture.id == full.id


def test_typing_on_while_a_picture_is_made_shows_drafts_and_keeps_the_picture(state: StudioState) -> None:
    full = Request(prompt="a red house", out="a.png")
    state.submitted(full)
    state.apply(preview(full))
    draft = draft_of(state, "a blue house")
    assert Topic.CANVAS not in state.apply(preview(full, 2))
    state.apply(draft)
    assert state.picture is not None
    assert state.picture.kind is Kind.DRAFT
    assert Topic.CANVAS not in state.apply(Finished(full.id, result_of(full)))
    assert len(state.history) == 1


def test_previews_of_quick_drafts_are_left_out_and_of_slow_ones_shown(state: StudioState) -> None:
    state.apply(draft_of(state, seconds=0.3))
    quick = Request(prompt="b", draft=True)
    state.submitted(quick)
    assert state.apply(preview(quick)) == set()
    state.apply(draft_of(state, seconds=9.0))
    slow = Request(prompt="c", draft=True)
    state.submitted(slow)
    assert state.apply(preview(slow)) == {Topic.CANVAS}


def test_failure_stays_in_the_queue_with_its_reason(state: StudioState) -> None:
    request = Request(prompt="a", width=100)
    state.submitted(request)
    state.apply(Failed(request.id, ErrorKind.USER, "Choose a width that is a multiple of 16.", "Traceback ..."))
    assert state.queue[0].state is State.FAILED
    assert state.notice is not None
    assert state.notice.sentence == "Choose a width that is a multiple of 16."
    assert state.notice.action is None  # the same request would only fail again
    state.retried(request.id)
    assert state.queue[0].state is State.WAITING
    assert state.notice is None


def test_our_own_failure_can_be_tried_again(state: StudioState) -> None:
    request = Request(prompt="a")
    state.submitted(request)
    state.apply(Failed(request.id, ErrorKind.INTERNAL, "It broke."))
    assert state.notice is not None
    assert state.notice.action == ("Try again", f"retry:{request.id}")


def test_a_failed_preview_does_not_stay(state: StudioState) -> None:
    done, broken = Request(prompt="a", out="a.png"), Request(prompt="b", out="b.png")
    state.submitted(done)
    state.apply(Finished(done.id, result_of(done)))
    state.submitted(broken)
    state.apply(preview(broken))
    state.apply(Failed(broken.id, ErrorKind.INTERNAL, "It broke."))
    assert state.picture is not None
    assert state.picture.id == done.id


def test_cancel_is_said_at_once_and_done_when_the_engine_says_so(state: StudioState) -> None:
    request = Request(prompt="a")
    state.submitted(request)
    state.apply(Started(request.id, request))
    assert state.cancelling(request.id) == {Topic.PROGRESS}
    assert state.work is not None
    assert state.work.note == "stopping"
    state.apply(Cancelled(request.id))
    assert state.queue == []
    assert state.work is None


def test_a_dead_engine_puts_its_job_back(state: StudioState) -> None:
    request = Request(prompt="a")
    state.submitted(request)
    state.apply(Started(request.id, request))
    state.apply(EngineStopped(False, "killed", True))
    assert state.queue[0].state is State.WAITING
    assert state.work is None
    state.apply(SetAside(request.id, "The engine stopped 2 times."))
    assert state.queue[0].state is State.SET_ASIDE
    assert state.queue[0].reason == "The engine stopped 2 times."


def test_jobs_of_an_earlier_session_come_first(state: StudioState) -> None:
    new = Request(prompt="new")
    state.submitted(new)
    old = Job(Request(prompt="old"), State.FAILED, 0, "why")
    state.jobs_loaded([old])
    assert [job.request.prompt for job in state.queue] == ["old", "new"]


def test_the_ledger_is_added_up(state: StudioState) -> None:
    state.apply(LedgerRecord(0.0, "a", "starter", "vae", "F16", 100, 100, "loaded"))
    state.apply(LedgerRecord(1.0, "a", "starter", "vae", "F16", -100, 0, "released"))
    assert (state.components["vae"].bytes, state.components["vae"].resident) == (100, 0)
    request = Request(prompt="a", out="a.png")
    state.submitted(request)
    state.apply(Finished(request.id, result_of(request)))
    assert state.components["vae"].bytes == COMPONENTS["vae"].bytes
    assert state.components["transformer"].resident == 0


def test_a_dead_engine_holds_nothing(state: StudioState) -> None:
    state.apply(LedgerRecord(0.0, "a", "starter", "vae", "F16", 100, 100, "loaded"))
    state.apply(EngineStopped(False, "killed", True))
    assert state.components["vae"].resident == 0


def test_expected_seconds_come_from_what_was_measured(state: StudioState) -> None:
    request = Request(prompt="a", steps=8, width=128, height=128)
    assert state.times.expected(request) is None
    state.page_loaded(Page("", 0, [result_of(Request(prompt="a", steps=8, out="a.png"), seconds=1.0)]))
    assert state.times.expected(request) == pytest.approx(1.0)
    assert state.times.expected(Request(prompt="a", steps=16, width=128, height=128)) == pytest.approx(1.8)
    assert state.times.expected(Request(prompt="a", steps=8, width=256, height=128)) is None
    assert state.times.expected(Request(prompt="a", steps=8, model="other")) is None


def test_looking_at_an_older_picture_is_not_interrupted(state: StudioState) -> None:
    older = result_of(Request(prompt="old", out="old.png"))
    state.page_loaded(Page("", 0, [older]))
    running = Request(prompt="new", out="new.png")
    state.submitted(running)
    state.show(older)
    assert Topic.CANVAS not in state.apply(preview(running))
    assert Topic.CANVAS not in state.apply(Finished(running.id, result_of(running)))
    assert state.picture is not None
    assert state.picture.id == older.id
    state.forget_result(older.id)
    assert [result.prompt for result in state.history] == ["new"]
