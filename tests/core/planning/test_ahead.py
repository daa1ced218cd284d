"""Weights of the next phase that come while this one computes: only into room that is left, and only what it hides."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.hardware import profile as cards
from core.messages import Phase, UserError
from core.models import profile as models
from core.planning.job import Job, job_of
from core.planning.options import Options, engine_on
from core.planning.simulate import simulate
from core.planning.solve import solve
from core.plans import Plan, formats_of

GB = 10**9
WITHOUT = Options(ahead=False)
# a large card whose link takes as long for the transformer as the encoder takes to compute
ROOMY = msgspec.structs.replace(
    cards.load("rtx-3060"), memory_bytes=100 * GB, host_bytes=256 * GB, staged_rate=cards.load("rtx-3060").pinned_rate
)
LEAVES = {"keep": {"transformer": False}, "fold": False, "formats": {"transformer": "BF16", "text_encoder": "BF16"}}
JOB = job_of(models.load("qwen-image"), steps=4)


def after(plan: Plan, job: Job) -> Job:
    """The same job when another one was made before: what the plan keeps is there."""
    return msgspec.structs.replace(
        job,
        warm={c.name: c.kept_bytes for c in plan.components if c.kept_bytes},
        warm_formats=formats_of(plan),
        in_memory=frozenset(c.name for c in plan.components),
    )


def second(options: Options, hardware: cards.HardwareProfile = ROOMY) -> tuple[Plan, Job]:
    """The plan of the second of two jobs."""
    first, _ = solve(JOB, hardware, options)
    job = after(first, JOB)
    return solve(job, hardware, options)[0], job


def test_the_transformer_comes_while_a_warm_encoder_computes() -> None:
    plan, job = second(Options(**LEAVES))
    without, _ = second(Options(ahead=False, **LEAVES))
    encode, denoise, _ = plan.phases
    brought = encode.ahead["transformer"]
    assert 4 * GB < brought < plan.component("transformer").bytes
    # no more than the link can bring meanwhile, and it has its place in the phase
    assert brought <= encode.seconds * ROOMY.link_rate(pinned=plan.pinned)
    reserved = without.phases[0].reserved_bytes + brought
    assert reserved <= encode.reserved_bytes <= min(reserved + (2 << 20), plan.budget_bytes)  # in whole segments
    assert denoise.load_seconds < without.phases[1].load_seconds
    assert plan.total_seconds <= without.total_seconds
    assert plan.total_seconds == pytest.approx(sum(phase.seconds for phase in plan.phases))
    assert plan.link_bytes == without.link_bytes
    assert not any(phase.ahead for phase in without.phases)
    ours, theirs = simulate(plan, job, ROOMY, Options(**LEAVES)), simulate(without, job, ROOMY, Options(**LEAVES))
    assert ours.total_seconds <= theirs.total_seconds
    assert ours.link_bytes == theirs.link_bytes == plan.link_bytes
    assert ours.peak_bytes <= plan.peak_bytes
    begin = ours.phases[1].begin
    early = sum(r.change for r in ours.ledger if r.component == "transformer" and r.change > 0 and r.seconds <= begin)
    block = max(placed.slot_bytes or 0 for placed in denoise.placements) or brought // 10
    assert brought - block <= early <= brought
    for record, previous in zip(ours.ledger[1:], ours.ledger, strict=False):
        assert record.resident_bytes == previous.resident_bytes + record.change


def test_there_is_nothing_to_bring_where_the_link_or_the_room_is_taken() -> None:
    plan, _ = solve(JOB, cards.load("rx-7800-xt"))
    assert all(not phase.ahead for phase in plan.phases if phase.streamed_bytes)
    tight = msgspec.structs.replace(ROOMY, memory_bytes=60 * GB)
    plan, _ = second(Options(**LEAVES), tight)
    assert plan.phases[0].peak_bytes <= plan.budget_bytes
    cached, _ = solve(msgspec.structs.replace(JOB, encoded=True), ROOMY, Options(**LEAVES))
    assert cached.phases[0].skipped
    assert not cached.phases[0].ahead


def test_a_device_that_shares_the_host_s_memory_copies_nothing_ahead() -> None:
    assert engine_on(own_memory=True).ahead
    assert not engine_on(own_memory=False).ahead
    plan, _ = solve(job_of(models.load("sdxl")), cards.load("bc-250"))
    assert not any(phase.ahead for phase in plan.phases)


def test_what_it_saves_is_said_where_it_is_felt() -> None:
    slow = msgspec.structs.replace(ROOMY, pinned_rate=2e9, staged_rate=2e9, contention=0.0, disk_rate=20e9)
    options = Options(blocks={"text_encoder": 60}, **LEAVES)
    first, _ = solve(JOB, slow, options)
    plan, _ = solve(after(first, JOB), slow, options)
    assert plan.phases[0].ahead
    assert any("link is idle" in reason and "transformer" in reason for reason in plan.reasons)
    without, _ = solve(after(first, JOB), slow, msgspec.structs.replace(options, ahead=False))
    saved = without.total_seconds - plan.total_seconds
    assert saved == pytest.approx(plan.phases[0].ahead["transformer"] / 2e9, rel=0.01)
    assert first.next_seconds == pytest.approx(plan.total_seconds)


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from(["flux-schnell", "z-image-turbo", "sdxl", "sd35-medium", "wan22-5b", "ltx2"]),
    card=st.sampled_from(["rx-7800-xt", "rtx-3060", "rtx-4090", "h100"]),
    warm=st.dictionaries(
        st.sampled_from(["text_encoder", "text_encoder_2", "transformer", "unet", "vae"]), st.integers(0, 10 * GB)
    ),
    encoded=st.booleans(),
    prefer=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_it_never_takes_longer_nor_more_room_than_there_is(model, card, warm, encoded, prefer):
    hardware = msgspec.structs.replace(cards.load(card), host_bytes=128 * GB)
    job = job_of(
        models.load(model), encoded=encoded, warm={k: v for k, v in warm.items() if k in models.load(model).components}
    )
    try:
        plan, _ = solve(job, hardware, Options(prefer=prefer))
    except UserError:
        return
    without, _ = solve(job, hardware, Options(prefer=prefer, ahead=False))
    assert formats_of(plan) == formats_of(without)
    assert plan.total_seconds <= without.total_seconds * (1 + 1e-9)
    assert plan.next_seconds <= without.next_seconds * (1 + 1e-9)
    assert plan.expected_seconds <= without.expected_seconds * (1 + 1e-9)
    assert plan.link_bytes == without.link_bytes
    assert all(phase.peak_bytes <= plan.budget_bytes for phase in plan.phases)
    for number, phase in enumerate(plan.phases):
        assert not phase.ahead or not (phase.skipped or phase.streamed_bytes)
        later = {p.component: p.resident_bytes for each in plan.phases[number + 1 :] for p in each.placements}
        assert all(0 < size <= later[name] for name, size in phase.ahead.items())
        assert phase.load_seconds >= -1e-9
    simulation = simulate(plan, job, hardware, Options(prefer=prefer))
    apart = simulate(without, job, hardware, Options(prefer=prefer))
    assert simulation.peak_bytes <= max(plan.budget_bytes, apart.peak_bytes)
    assert simulation.link_bytes == apart.link_bytes
    assert simulation.total_seconds <= apart.total_seconds * 1.01
    assert Phase.DECODE in {phase.phase for phase in plan.phases}
