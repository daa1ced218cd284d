"""Calls that share streamed blocks: how often those cross, how many go together, and that nothing else changes."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.hardware import profile as cards
from core.messages import Phase, UserError
from core.models import profile as models
from core.models.profile import PhaseNeed
from core.planning.group import work_of
from core.planning.job import Companion, Job, job_of
from core.planning.lockstep import MOST_COMPANIONS
from core.planning.options import Options, engine_on
from core.planning.simulate import simulate
from core.planning.solve import solve
from core.plans import PhasePlan, Plan, formats_of

GB = 10**9
ALONE = Options(lockstep=False)


def companion(job: Job, **changes: object) -> Companion:
    """A queued request like a job, with changes."""
    alike = Companion(
        width=job.width,
        height=job.height,
        frames=job.frames,
        steps=job.steps,
        guidance=job.guidance,
        negative=job.negative,
        batch=job.batch,
    )
    return msgspec.structs.replace(alike, **changes)


def slow(card: str, link: float, memory: int | None = None) -> cards.HardwareProfile:
    """A card behind a slow link."""
    known = cards.load(card)
    return msgspec.structs.replace(
        known, pinned_rate=link, staged_rate=link, host_bytes=64 * GB, memory_bytes=memory or known.memory_bytes
    )


def denoising(plan: Plan) -> PhasePlan:
    return next(phase for phase in plan.phases if phase.phase is Phase.DENOISE)


GUIDED = job_of(models.load("qwen-image"), negative=True, width=512, height=512, steps=20)
FEW = job_of(models.load("flux2-dev"), width=512, height=512, steps=10, encoded=True)


class TestGuidedAndUnguided:
    def test_they_cross_once_a_step(self) -> None:
        hardware = slow("rtx-3060", 2e9)
        alone, _ = solve(GUIDED, hardware, ALONE)
        plan, _ = solve(GUIDED, hardware)
        phase = denoising(plan)
        assert (phase.lockstep, phase.passes, phase.steps) == (2, 20, 20)
        assert (denoising(alone).lockstep, denoising(alone).passes) == (1, 40)
        assert plan.together == 1
        assert plan.link_bytes < 0.62 * alone.link_bytes  # what comes once is not halved
        assert plan.total_seconds < alone.total_seconds
        assert plan.expected_seconds < alone.expected_seconds
        assert formats_of(plan) == formats_of(alone)
        assert phase.step_seconds < denoising(alone).step_seconds
        # the call that waits takes room
        assert phase.activation_bytes > denoising(alone).activation_bytes
        assert any("share each streamed block" in reason for reason in plan.reasons)

    def test_without_guidance_there_is_nothing_to_share(self) -> None:
        unguided = msgspec.structs.replace(GUIDED, guidance=1.0)
        hardware = slow("rtx-3060", 2e9)
        assert solve(unguided, hardware)[0] == solve(unguided, hardware, ALONE)[0]


def test_what_does_not_stream_is_planned_as_ever() -> None:
    job = job_of(models.load("sdxl"))
    queued = msgspec.structs.replace(job, companions=(companion(job),) * 5)
    hardware = cards.load("rtx-4090")
    assert solve(queued, hardware, Options())[0] == solve(job, hardware, ALONE)[0]


def test_what_computes_for_longer_than_it_copies_is_not_delayed_for_others() -> None:
    job = job_of(models.load("flux-dev"))
    queued = msgspec.structs.replace(job, companions=(companion(job),) * 5)
    plan, _ = solve(queued, cards.load("rtx-3060"))
    assert denoising(plan).streamed_bytes
    assert plan.together == 1
    assert plan == solve(job, cards.load("rtx-3060"))[0]


class TestCompanions:
    hardware = slow("rtx-4060", 0.5e9)

    def plan(self, count: int, options: Options = Options(), **changes: object) -> Plan:  # noqa: B008
        job = msgspec.structs.replace(FEW, companions=(companion(FEW, encoded=True, **changes),) * count)
        return solve(job, self.hardware, options)[0]

    def test_queued_jobs_share_what_crosses_and_the_first_is_hardly_later(self) -> None:
        alone, plan = self.plan(0), self.plan(MOST_COMPANIONS)
        phase = denoising(plan)
        assert plan.together > 2
        assert phase.lockstep == plan.together
        assert phase.passes == phase.steps == FEW.steps
        assert plan.total_seconds <= 1.2 * alone.total_seconds * 1.01  # slots are settled after the search
        assert plan.total_seconds == pytest.approx(sum(each.seconds for each in plan.phases))
        assert plan.total_seconds / plan.together < 0.6 * alone.total_seconds
        assert plan.link_bytes < 0.62 * alone.link_bytes  # what comes once is not halved
        assert formats_of(plan) == formats_of(alone)
        assert plan.peak_bytes <= plan.budget_bytes
        assert any(f"{plan.together} queued pictures go through each streamed block" in each for each in plan.reasons)

    def test_no_more_go_together_than_wait_or_than_the_first_can_wait_for(self) -> None:
        assert self.plan(1).together == 2
        most = self.plan(MOST_COMPANIONS)
        assert self.plan(MOST_COMPANIONS, Options(latency=0.0)).together < most.together
        patient = self.plan(40, Options(latency=20.0))
        assert most.together < patient.together <= 1 + MOST_COMPANIONS
        assert self.plan(MOST_COMPANIONS, Options(lockstep=False)).together == 1
        assert self.plan(MOST_COMPANIONS, steps=1000).together == 1

    def test_what_has_been_decided_is_planned_for(self) -> None:
        decided = Options(together=True)
        assert self.plan(5).together < self.plan(5, decided).together == 6
        assert self.plan(0, decided) == self.plan(0)
        unequal = self.plan(2, decided, width=1024, height=1024, steps=30)
        assert (unequal.together, denoising(unequal).passes) == (3, 30)
        with pytest.raises(UserError, match="do not fit together"):
            self.plan(2, decided, width=4096, height=4096)

    def test_what_stays_whole_is_denoised_one_after_the_other(self) -> None:
        job = job_of(models.load("sdxl"), steps=10)
        queued = msgspec.structs.replace(job, companions=(companion(job, steps=5),) * 2)
        plan, _ = solve(queued, cards.load("rtx-4090"), Options(together=True))
        phase = denoising(plan)
        assert (plan.together, phase.lockstep, phase.passes) == (3, 1, 2 * (10 + 5 + 5))
        alone, _ = solve(job, cards.load("rtx-4090"))
        assert phase.peak_bytes == denoising(alone).peak_bytes
        assert simulate(plan, queued, cards.load("rtx-4090"), Options()).total_seconds == pytest.approx(
            plan.total_seconds, rel=0.1
        )

    def test_steps_and_sizes_may_differ(self) -> None:
        shorter = self.plan(1, steps=4)
        assert (shorter.together, denoising(shorter).passes) == (2, FEW.steps)
        small = self.plan(1, width=256, height=256)
        assert small.together == 2
        assert denoising(small).activation_bytes < denoising(self.plan(1)).activation_bytes

    def test_without_an_encoder_only_what_is_encoded_joins(self) -> None:
        job = msgspec.structs.replace(FEW, companions=(companion(FEW),) * 3)
        assert solve(job, self.hardware)[0].together == 1

    def test_prompts_that_must_be_read_are_read_before(self) -> None:
        job = job_of(models.load("flux-dev"), width=512, height=512, steps=8)
        hardware = slow("rtx-4090", 0.5e9, 14 * GB)
        options = Options(formats={"transformer": "BF16", "text_encoder_2": "Q4_K"}, keep={"text_encoder_2": True})
        plans = [
            solve(msgspec.structs.replace(job, companions=(companion(job, encoded=known),) * 2), hardware, options)[0]
            for known in (False, True)
        ]
        assert [plan.together for plan in plans] == [3, 3]
        assert [plan.phases[0].passes for plan in plans] == [3, 1]
        assert plans[0].phases[0].seconds > plans[1].phases[0].seconds

    def test_a_dry_run_holds_for_one_size_only(self) -> None:
        exact = msgspec.structs.replace(FEW, exact=True)
        other = companion(exact, width=256, height=256, encoded=True)
        job = msgspec.structs.replace(exact, companions=(other,))
        assert solve(job, self.hardware)[0].together == 1


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from(["flux-schnell", "flux2-klein-4b", "sd35-large", "qwen-image", "z-image-turbo"]),
    link=st.sampled_from([0.3e9, 1e9, 4e9]),
    memory=st.sampled_from([8 * GB, 12 * GB]),
    side=st.sampled_from([256, 512, 1024]),
    steps=st.integers(1, 12),
    others=st.lists(
        st.tuples(st.sampled_from([256, 512]), st.integers(1, 12), st.sampled_from([1.0, 4.0]), st.booleans()),
        max_size=5,
    ),
)
def test_a_plan_for_several_keeps_its_promises(model, link, memory, side, steps, others):
    """Never over the budget, never late, never other formats, and the simulation agrees."""
    job = job_of(models.load(model), width=side, height=side, steps=steps, negative=True)
    queued = tuple(
        companion(job, width=size, height=size, steps=some, guidance=guidance, encoded=known)
        for size, some, guidance, known in others
    )
    job, hardware = msgspec.structs.replace(job, companions=queued), slow("rtx-4060", link, memory)
    plan, _ = solve(job, hardware)
    single, _ = solve(msgspec.structs.replace(job, companions=()), hardware)
    alone, _ = solve(job, hardware, ALONE)
    assert formats_of(plan) == formats_of(single)
    assert formats_of(single) == formats_of(alone) or single.loss <= alone.loss  # sharing passes may pay for more bits
    assert [phase.tile for phase in plan.phases] == [phase.tile for phase in single.phases]
    assert single.together == alone.together == 1
    assert 1 <= plan.together <= 1 + len(queued)
    assert all(phase.peak_bytes <= plan.budget_bytes for phase in plan.phases)
    assert plan.total_seconds <= 1.2 * single.total_seconds * 1.02
    assert single.expected_seconds <= alone.expected_seconds * (1 + 1e-9)
    simulation = simulate(plan, job, hardware, Options())
    assert simulation.peak_bytes <= plan.budget_bytes
    assert simulation.total_seconds == pytest.approx(plan.total_seconds, rel=0.17, abs=0.005)
    assert simulation.link_bytes == pytest.approx(plan.link_bytes, abs=len(plan.phases))


needs = st.builds(
    PhaseNeed, phase=st.just(Phase.DENOISE), label=st.just("denoise"), components=st.just(["transformer"]),
    passes=st.just("steps"), guided=st.booleans(),
)  # fmt: skip


@given(
    need=needs,
    members=st.lists(
        st.tuples(st.integers(1, 12), st.sampled_from([1.0, 5.0]), st.floats(0.1, 4.0)), min_size=1, max_size=5
    ),
)
def test_passes_are_those_of_jobs_that_wait_for_each_other(need, members):
    """Against playing it: each job makes all calls of a step in each pass until its steps are done."""
    jobs = [
        msgspec.structs.replace(GUIDED, steps=steps, guidance=guidance, companions=()) for steps, guidance, _ in members
    ]
    factors = [factor for *_, factor in members]
    calls = [2 if need.guided and job.guided else 1 for job in jobs]
    todo = [[each] * job.steps for job, each in zip(jobs, calls, strict=True)]
    played = [
        sum(factor * (some or 0) for factor, some in zip(factors, row, strict=True))
        for row in itertools.zip_longest(*todo)
    ]
    work = work_of(need, jobs, factors, locked=True)
    assert [factor for count, factor in work for _ in range(count)] == pytest.approx(played)
    apart = work_of(need, jobs, factors, locked=False)
    assert sum(count for count, _ in apart) == sum(map(sum, todo))
    assert sum(count * factor for count, factor in apart) == pytest.approx(sum(played))


def test_the_simulation_copies_a_block_once_for_all_calls() -> None:
    hardware = slow("rtx-3060", 2e9)
    plan, _ = solve(GUIDED, hardware)
    alone, _ = solve(GUIDED, hardware, ALONE)
    ours, apart = (simulate(each, GUIDED, hardware, Options()) for each in (plan, alone))
    assert ours.link_bytes == plan.link_bytes < apart.link_bytes
    phase = next(each for each in ours.phases if each.label == "denoise")
    assert phase.step_seconds == pytest.approx(denoising(plan).step_seconds, rel=0.03)


def test_a_device_that_shares_the_host_s_memory_has_no_lockstep() -> None:
    assert engine_on(own_memory=True).lockstep
    assert not engine_on(own_memory=False).lockstep
