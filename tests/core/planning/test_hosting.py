"""Where host memory does not take all weights, what is needed most often stays; the disk brings the rest."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.hardware.profile import HardwareProfile
from core.hardware.profile import load as card
from core.models.profile import load as model
from core.planning.choices import HOST_RESERVE_BYTES
from core.planning.cost import Stage
from core.planning.hosting import divided
from core.planning.job import Next, job_of
from core.planning.options import Options
from core.planning.simulate import simulate
from core.planning.solve import solve
from core.plans import Phase, Plan
from tests.core.planning.placements import component

GB = 10**9
CHANCES = Next(0.6, 0.3, 0.1)
BF16 = Options(formats={"transformer": "BF16", "text_encoder": "BF16"})


def stages_of(encoder: int, transformer: int, passes: int, vae: int) -> list[Stage]:
    return [
        Stage((component("encoder", [(4, encoder)], 5, 1.0, True),), 1, 10, True, False),
        Stage((component("transformer", [(6, transformer)], 5, 1.0, True),), passes, 10, False, False),
        Stage((component("vae", [], vae, 1.0, streams=False),), 1, 10, False, False),
    ]


@given(
    encoder=st.integers(1, 40),
    transformer=st.integers(1, 60),
    passes=st.integers(2, 50),
    vae=st.integers(1, 40),
    budget=st.integers(20, 300),
    room=st.integers(0, 500),
    other=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_no_other_division_serves_more_bytes_from_memory(encoder, transformer, passes, vae, budget, room, other):
    stages = stages_of(encoder, transformer, passes, vae)
    sizes = {part.name: part.bytes for stage in stages for part in stage.demands}
    hosted = dict(divided(stages, CHANCES, room, budget, 2))
    if sum(sizes.values()) <= room:
        assert not hosted
        return
    assert sum(hosted.values()) == room
    assert all(0 <= hosted[name] <= sizes[name] for name in sizes)
    streamed = max(0, sizes["transformer"] - max(0, budget - 10 - 2 * transformer))

    def served(division: dict[str, float]) -> float:
        """Bytes that come from memory in this job and the next, as far as residency can be foreseen."""
        often = min(division["transformer"], streamed)
        once = division["encoder"] + division["transformer"] - often
        return passes * often + CHANCES.text * once + (CHANCES.text + CHANCES.seed) * division["vae"]

    whole = sum(share * sizes[name] for name, share in zip(sizes, other, strict=True))
    scale = min(1.0, room / whole) if whole else 0.0
    tried = {name: share * sizes[name] * scale for name, share in zip(sizes, other, strict=True)}
    assert served(hosted) >= served(tried) - 1e-6


def on(host: int, options: Options = BF16) -> tuple[Plan, HardwareProfile]:
    hardware = msgspec.structs.replace(card("rtx-4070-ti-super"), host_bytes=host)
    return solve(job_of(model("qwen-image")), hardware, options)[0], hardware


def test_what_streams_stays_in_memory_and_the_disk_brings_little() -> None:
    roomy, _ = on(128 * GB)
    short, hardware = on(32 * GB)
    tiny, _ = on(8 * GB)
    assert roomy.hosted == {}
    assert not short.pinned
    assert sum(short.hosted.values()) == 32 * GB - HOST_RESERVE_BYTES
    denoise = next(phase for phase in short.phases if phase.phase is Phase.DENOISE)
    # Qwen-Image's 41 GB do not fit into 28, but what streams of it does: no pass waits for the disk
    assert short.hosted["transformer"] >= 0.95 * denoise.streamed_bytes > 0
    assert short.total_seconds < 1.1 * roomy.total_seconds
    assert tiny.total_seconds > 1.3 * short.total_seconds
    waits = next(phase for phase in tiny.phases if phase.phase is Phase.DENOISE)
    missing = waits.streamed_bytes - tiny.hosted["transformer"]
    assert waits.placements[0].pass_seconds >= missing / hardware.disk_rate
    assert any(reason.startswith("host memory takes 28.0 GB of 57.7 GB") for reason in short.reasons)
    assert any("so the disk sets the pace" in reason for reason in tiny.reasons)


@pytest.mark.parametrize("host", [8, 16, 32, 64])
def test_virtual_time_counts_the_disk_too(host: int) -> None:
    plan, hardware = on(host * GB)
    simulation = simulate(plan, job_of(model("qwen-image")), hardware, BF16)
    assert simulation.total_seconds == pytest.approx(plan.total_seconds, rel=0.05)


def test_formats_that_fit_are_worth_more_where_memory_is_short() -> None:
    free = Options(prefer=0.0)
    assert on(128 * GB, free)[0].total_seconds <= on(12 * GB, free)[0].total_seconds < on(12 * GB)[0].total_seconds
