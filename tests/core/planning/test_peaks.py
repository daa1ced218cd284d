"""The peak that is predicted is this run's: what is there counts, what is yet to come or never comes does not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.hardware import profile as cards
from core.messages import Phase, UserError
from core.models import profile as models
from core.planning.job import job_of
from core.planning.options import Options, engine_for
from core.planning.simulate import simulate
from core.planning.solve import solve
from core.plans import formats_of

GB = 10**9
MB = 10**6


def planned(model: str, card: str, options: Options | None = None, **wishes):
    hardware = cards.load(card)
    job = job_of(models.load(model), **wishes)
    options = engine_for(hardware) if options is None else options
    return solve(job, hardware, options)[0], job, hardware, options


def test_weights_that_are_not_there_yet_do_not_count_but_have_their_room() -> None:
    plan, _, _, _ = planned("flux-schnell", "rx-7800-xt")
    encode, denoise, _ = plan.phases
    kept = plan.component("transformer").kept_bytes
    assert kept > 5 * GB
    assert encode.peak_bytes < encode.reserved_bytes - kept
    assert "transformer" not in encode.beside
    assert denoise.beside["text_encoder_2"] == plan.component("text_encoder_2").kept_bytes
    assert plan.peak_bytes == max(phase.peak_bytes for phase in plan.phases)


def test_weights_that_are_warm_count_from_the_beginning() -> None:
    cold, job, hardware, options = planned("flux-schnell", "rx-7800-xt")
    warm = {component.name: component.kept_bytes for component in cold.components}
    again, _ = solve(msgspec.structs.replace(job, warm=warm), hardware, options)
    kept = min(warm["transformer"], again.component("transformer").kept_bytes)
    assert again.phases[0].peak_bytes >= cold.phases[0].peak_bytes + 0.95 * kept


def test_encoders_that_never_load_do_not_count() -> None:
    for card in ("apple-m2-max", "rtx-4090"):
        fresh, _, _, _ = planned("sd35-medium", card)
        known, _, _, _ = planned("sd35-medium", card, encoded=True)
        encoders = sum(component.bytes for component in known.components if component.name.startswith("text_encoder"))
        assert known.peak_bytes < fresh.peak_bytes - 0.5 * encoders
        assert known.phases[0].skipped
        assert known.phases[0].peak_bytes == 0


def test_what_other_models_hold_counts_up_to_the_budget() -> None:
    plan, job, hardware, options = planned("sdxl", "rtx-4090")
    beside, _ = solve(msgspec.structs.replace(job, others_bytes=2 * GB), hardware, options)
    assert beside.peak_bytes == plan.peak_bytes + 2 * GB
    full, _ = solve(msgspec.structs.replace(job, others_bytes=50 * GB), hardware, options)
    assert full.peak_bytes == full.budget_bytes


def test_packed_weights_take_other_segments_than_their_source() -> None:
    """A component of less than 10 MiB shares a segment of 20 MiB, of which two are needed here."""
    hardware = msgspec.structs.replace(
        cards.load("rtx-3060"), vendor="emulated", memory_bytes=96 * MB, context_bytes=6 * MB, headroom_bytes=24 * MB
    )
    job = job_of(models.load("starter"))
    plan, _ = solve(job, hardware, Options(formats={"transformer": "Q8_0"}))
    held = sum(component.bytes for component in plan.components)
    assert held < 22 * MB
    assert plan.peak_bytes == (2 * 20 + 3 * 2) << 20


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from(models.names()),
    card=st.sampled_from(["rx-7800-xt", "rtx-3060", "rtx-4090", "gtx-1070", "arc-b580", "bc-250", "apple-m1", "h100"]),
    steps=st.sampled_from([1, 4, 20]),
    prefer=st.sampled_from([0.0, 0.5, 1.0]),
    encoded=st.booleans(),
    warm=st.booleans(),
)
def test_the_simulation_reaches_the_peak_that_is_predicted(model, card, steps, prefer, encoded, warm):
    hardware = cards.load(card)
    options = msgspec.structs.replace(engine_for(hardware), prefer=prefer)
    job = job_of(models.load(model), steps=steps, encoded=encoded)
    try:
        plan, _ = solve(job, hardware, options)
        if warm:
            kept = {component.name: component.kept_bytes for component in plan.components}
            job = msgspec.structs.replace(
                job,
                warm=kept,
                warm_formats=formats_of(plan),
                warm_folded={component.name: component.folded_bytes > 0 for component in plan.components},
                in_memory=frozenset(kept),
            )
            plan, _ = solve(job, hardware, options)
    except UserError:
        return
    simulation = simulate(plan, job, hardware, options)
    if not warm:  # what is warm and held otherwise leaves at another moment in the simulation
        assert simulation.peak_bytes == pytest.approx(plan.peak_bytes, rel=0.05)
    assert plan.peak_bytes <= plan.budget_bytes
    assert all(phase.reserved_bytes <= plan.budget_bytes for phase in plan.phases)
    # a step means the same in both
    run = [phase for phase in plan.phases if not phase.skipped]
    for phase, simulated in zip(run, simulation.phases, strict=True):
        if phase.phase is not Phase.DENOISE:
            assert simulated.step_seconds <= simulated.seconds * 1.02  # copies of the first pass may come ahead
        assert simulated.step_seconds == pytest.approx(phase.step_seconds, rel=0.17, abs=0.005)
