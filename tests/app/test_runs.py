"""Runs followed through events, laid over the plan's phases."""

from __future__ import annotations

import pytest

from app.outline import OTHERS, from_plan
from app.runs import Runs, measured_frame
from core.messages import (
    Cancelled,
    EngineStopped,
    Finished,
    LedgerRecord,
    Phase,
    Planned,
    Progress,
    Request,
    Started,
    WarmedUp,
)
from tests.app.fake_engine import make_result, plain_picture
from tests.app.plans import GB, plan


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def runs(clock: Clock) -> Runs:
    return Runs(clock)


def record(at: float, component: str, change: int, model: str = "starter") -> LedgerRecord:
    return LedgerRecord(at, "a", model, component, "Q8_0", change, 0, "needed by the phase")


def start(runs: Runs, **values: object) -> Request:
    request = Request(prompt="a", **values)  # type: ignore[arg-type]
    runs.take(Started(request.id, request))
    return request


def finish(runs: Runs, request: Request) -> None:
    runs.take(Finished(request.id, make_result(request, plain_picture(request, 1.0), 1.0, 4)))


def test_records_stand_in_the_phase_in_which_they_came(runs: Runs, clock: Clock) -> None:
    runs.take(record(90.0, "vae", GB))
    request = start(runs)
    runs.take(Progress(request.id, Phase.LOAD))
    clock.now = 101.0
    runs.take(record(101.0, "text_encoder", 2 * GB))
    runs.take(Progress(request.id, Phase.ENCODE))
    clock.now = 104.0  # encoding took 4 s where 2 were planned
    runs.take(Progress(request.id, Phase.DENOISE, 0, 4))
    clock.now = 106.0
    runs.take(Progress(request.id, Phase.DENOISE, 1, 4))
    assert runs.current is not None
    layers, now = runs.happened(runs.current, from_plan(plan(), {}))
    assert layers is not None
    assert layers.at(0.1) == {"vae": GB}
    assert layers.at(0.6) == {"text_encoder": 2 * GB, "vae": GB}  # 1 of 4 s is a quarter of the planned 2
    assert now == pytest.approx(2.0 + 8.0 / 4)  # a step of four, of the planned 8 s


def test_while_weights_load_the_next_phase_has_begun(runs: Runs, clock: Clock) -> None:
    request = start(runs)
    runs.take(Progress(request.id, Phase.LOAD))
    clock.now = 101.0
    assert runs.current is not None
    _, now = runs.happened(runs.current, from_plan(plan(), {}))
    assert now == pytest.approx(1.0)
    clock.now = 200.0
    assert runs.happened(runs.current, from_plan(plan(), {}))[1] < 2.0  # not over before it is


def test_of_runs_beside_each_other_the_first_is_followed(runs: Runs) -> None:
    first, second = start(runs), start(runs)
    runs.take(Planned(first.id, plan()))
    runs.take(Planned(second.id, plan()))
    assert runs.current is not None
    assert runs.current.request.id == first.id
    assert runs.current.plan is not None
    assert [request.id for request, _ in runs.planned] == [first.id]
    finish(runs, first)
    assert runs.current is None
    finish(runs, second)
    assert runs.last is not None
    assert runs.last.request.id == first.id


def test_a_finished_run_fills_the_plan(runs: Runs, clock: Clock) -> None:
    request = start(runs)
    for phase in (Phase.ENCODE, Phase.DENOISE, Phase.DECODE, Phase.SAVE):
        runs.take(Progress(request.id, phase))
        clock.now += 1.0
    finish(runs, request)
    assert runs.current is None
    assert runs.last is not None
    assert runs.last.over
    assert [stretch.phase for stretch in runs.last.stretches] == [Phase.ENCODE, Phase.DENOISE, Phase.DECODE]
    assert runs.happened(runs.last, from_plan(plan(), {}))[1] == pytest.approx(11.0)
    assert runs.taught == 1


def test_a_phase_that_was_left_out_leaves_a_gap(runs: Runs, clock: Clock) -> None:
    runs.take(record(90.0, "transformer", GB))
    request = start(runs)
    clock.now += 1
    runs.take(Progress(request.id, Phase.DENOISE, 0, 4))
    clock.now += 1
    assert runs.current is not None
    layers, _ = runs.happened(runs.current, from_plan(plan(), {}))
    assert layers is not None
    assert layers.at(1.0) == {}
    assert layers.at(2.5) == {"transformer": GB}


def test_another_model_on_the_device_is_one_layer(runs: Runs) -> None:
    runs.take(record(1.0, "transformer", 3 * GB, "sdxl"))
    runs.take(record(2.0, "vae", GB))
    assert runs.held("starter") == {"vae": GB, OTHERS: 3 * GB}
    assert runs.loaded("starter") == {"vae"}
    assert runs.resident_bytes == 4 * GB


def test_drafts_are_not_runs_but_their_plans_count(runs: Runs) -> None:
    request = start(runs, draft=True, steps=3)
    runs.take(Planned(request.id, plan()))
    assert runs.current is None
    assert runs.planned == [(request, plan())]


def test_a_second_plan_replaces_the_first(runs: Runs) -> None:
    request = start(runs)
    runs.take(Planned(request.id, plan()))
    runs.take(Planned(request.id, plan("other")))
    assert runs.current is not None
    assert runs.current.plan == plan("other")
    assert len(runs.planned) == 1


def test_a_cancelled_or_lost_run_is_not_kept(runs: Runs) -> None:
    request = start(runs)
    runs.take(Cancelled(request.id))
    assert (runs.current, runs.last) == (None, None)
    start(runs)
    runs.take(record(1.0, "vae", GB))
    runs.take(EngineStopped(False, "killed", True))
    assert runs.current is None
    assert runs.resident_bytes == 0


def test_a_run_without_a_plan_has_its_own_time(runs: Runs, clock: Clock) -> None:
    request = start(runs)
    assert runs.current is not None
    assert measured_frame(runs.current, clock.now) is None
    runs.take(Progress(request.id, Phase.ENCODE))
    clock.now += 2.0
    runs.take(Progress(request.id, Phase.DENOISE, 0, 4))
    clock.now += 3.0
    frame = measured_frame(runs.current, clock.now)
    assert frame is not None
    assert [(span.label, span.seconds) for span in frame.spans] == [("encode", 2.0), ("denoise", 3.0)]


def test_pictures_and_warm_ups_teach(runs: Runs) -> None:
    assert runs.taught == 0
    assert runs.take(WarmedUp("starter", 1.0))  # what is shown may be planned better now
    assert not runs.take(WarmedUp("starter", 1.0, "it is damaged"))
    assert runs.taught == 1
    finish(runs, start(runs))
    assert runs.taught == 2
