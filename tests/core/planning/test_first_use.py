"""A processor writes a kernel for each new shape of a convolution: the first decoding of a process is planned so."""

from __future__ import annotations

import msgspec

from core.hardware.calibrate_network import first_seconds
from core.hardware.machine import detect
from core.hardware.match import processor
from core.messages import Phase
from core.models import profile as models
from core.planning.job import Job, job_of
from core.planning.options import engine_on
from core.planning.solve import solve
from core.plans import PhasePlan

ABLE = engine_on(own_memory=False)
PROCESSOR = msgspec.structs.replace(processor(detect()), first_seconds=0.0)


def decoding(job: Job, seconds: float) -> PhasePlan:
    plan, _ = solve(job, msgspec.structs.replace(PROCESSOR, first_seconds=seconds), ABLE, budget=4 * 10**9)
    return next(phase for phase in plan.phases if phase.phase is Phase.DECODE)


def test_new_shapes_take_time_once() -> None:
    job = job_of(models.load("starter"))
    plain, slow = decoding(job, 0.0), decoding(job, 1e-3)
    more = slow.seconds - plain.seconds
    # the starter has a decoder of about 20 convolutions, those of blocks that are alike counted once
    assert 0.015 < more < 0.035
    warm = dict.fromkeys(job.model.components, 10**9)
    again = msgspec.structs.replace(job, warm=warm)
    assert decoding(again, 1e-3).seconds == decoding(again, 0.0).seconds


def test_it_is_measured_by_calls_of_shapes_that_are_new() -> None:
    assert 0.0 <= first_seconds() < 1.0
