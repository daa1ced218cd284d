"""How many jobs go together, against trying every number of them with every placement of small instances."""

from __future__ import annotations

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.hardware import profile as cards
from core.messages import Phase
from core.models.profile import BlockKind, ComponentProfile, Limits, ModelProfile, PhaseNeed, Tensor
from core.planning.cost import Costs, Found, Machine, Stage, Work
from core.planning.decide import Candidate, decide
from core.planning.hosting import machine_for
from core.planning.job import Companion, Job, Next, job_of
from core.planning.lockstep import WORTH, in_lockstep
from core.planning.options import Options
from tests.core.planning.placements import brute_force

OPTIONS = Options(fold=False, tiles="off", packing=False, slots=2)
# its arithmetic takes what the profile says, and nothing allocates but what computes
HARDWARE = msgspec.structs.replace(
    cards.load("rtx-3060"),
    vendor="cpu",
    matmul_rate={"F32": 1e9},
    matmul_efficiency=1.0,
    memory_bandwidth=1e14,
    operation_seconds=0.0,
    launch_seconds=0.0,
    host_bytes=64 * 10**9,
    disk_rate=1e7,
    contention=0.1,
)
UNIT = 1 << 20  # so that the alignment of tensors is lost in it


def component(blocks: int, size: int, seconds: float, rest: int, activation: int) -> ComponentProfile:
    """Blocks of so many units that compute for so long all together."""
    block = BlockKind(tensors=[Tensor("w", (size * UNIT // 4,), "keep")], flops={"1": seconds * 1e9 / max(1, blocks)})
    return ComponentProfile(
        class_name="Model",
        source_format="F32",
        kinds={"blocks": block},
        order=[("blocks", blocks)],
        rest=BlockKind(tensors=[Tensor("r", (rest * UNIT // 4,), "keep")]),
        activation={"1": activation * UNIT / 2},  # doubled where F32 computes
    )


def model(encoder: ComponentProfile, transformer: ComponentProfile, vae: ComponentProfile) -> ModelProfile:
    return ModelProfile(
        name="small",
        title="Small",
        family="small",
        defaults=Limits(width=64, height=64, steps=4, guidance=1.0),
        components={"encoder": encoder, "transformer": transformer, "vae": vae},
        phases=[
            PhaseNeed(phase=Phase.ENCODE, label="encode", components=["encoder"]),
            PhaseNeed(phase=Phase.DENOISE, label="denoise", components=["transformer"], passes="steps", guided=True),
            PhaseNeed(phase=Phase.DECODE, label="decode", components=["vae"]),
        ],
    )


def tried(
    job: Job, base: Candidate, machine: Machine, count: int, alone: Work
) -> tuple[Found | None, tuple[Stage, ...]]:
    """The best placement for so many jobs in lockstep, if it still streams; `alone` are the passes of the next one."""
    encode, denoise, decode = base.stages
    calls = 2 if job.guided else 1
    waiting = (count * calls - 1) * denoise.demands[0].activation_bytes
    shared = msgspec.structs.replace(
        denoise,
        passes=job.steps,
        overhead=denoise.overhead + waiting,
        work=((job.steps, float(count * calls)),),
        next_work=alone,
    )
    stages = (encode, shared, decode)
    found = brute_force(stages, machine, job.next, {})
    return found if found is not None and found.placements[1, "transformer"].way.streamed else None, stages


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.integers(3, 5),
    size=st.integers(20, 40),
    seconds=st.floats(0.05, 3.0),
    activation=st.integers(1, 30),
    encoder=st.tuples(st.integers(1, 2), st.integers(34, 60)),  # small ones are kept whole or not at all
    spare=st.integers(0, 60),
    steps=st.integers(2, 6),  # in a single pass all that is resident crosses as well
    guided=st.booleans(),
    queued=st.integers(1, 3),
    latency=st.sampled_from([0.1, 0.2, 1.0]),
)
def test_as_many_as_pay(blocks, size, seconds, activation, encoder, spare, steps, guided, queued, latency):
    budget = max(2 + 2 * size + activation, 6 + encoder[0] * encoder[1], 30) + spare
    small = model(
        component(encoder[0], encoder[1], 0.1, 1, 5),
        component(blocks, size, seconds, 2, activation),
        component(0, 0, 0.0, 10, 20),
    )
    job = job_of(small, steps=steps, guidance=4.0 if guided else 1.0, negative=guided, following=Next(0.6, 0.3, 0.1))
    one = Companion(width=64, height=64, steps=steps, guidance=job.guidance, negative=guided, encoded=True)
    job = msgspec.structs.replace(job, companions=(one,) * queued)
    hardware = msgspec.structs.replace(HARDWARE, pinned_rate=40.0 * UNIT, staged_rate=40.0 * UNIT)
    options = msgspec.structs.replace(OPTIONS, latency=latency)
    decision = decide(job, hardware, options, budget * UNIT)
    assume(decision is not None)
    assert decision is not None
    base = decision.chosen
    machine = machine_for(base.stages, job.next, hardware, options, budget * UNIT)
    assume(base.found.placements[1, "transformer"].way.streamed)
    result = in_lockstep(base, job, hardware, options, budget * UNIT, decision.memories)

    # alone: the two calls of a step together, where that is faster
    alone, stages = base.found, base.stages
    if job.guided:
        both, with_both = tried(job, base, machine, 1, ())
        if both is not None and both.expected < alone.expected:
            alone, stages = both, with_both
    costs = Costs(stages, machine, job.next, {}, frozenset(), {})
    placed = alone.placements[1, "transformer"]
    owed = costs.share("transformer", {1: placed.way}, placed.kept).text
    limit, best, together = alone.seconds * (1 + latency), alone.expected, 1
    close = False  # to a boundary, where rounding decides
    for count in range(2, queued + 2):
        found, _ = tried(job, base, machine, count, stages[1].rounds())
        if found is None:
            break
        close = close or abs(found.seconds - limit) < 1e-6 * limit
        if found.seconds > limit:
            break
        gain = best - (found.expected - (count - 1) * owed)
        close = close or abs(gain - WORTH * owed) < 1e-6 * owed
        if gain > WORTH * owed:
            best, together = found.expected - (count - 1) * owed, count
    if not close:
        assert result.together == together
        assert result.found.expected - (result.together - 1) * owed <= best + 1e-6
