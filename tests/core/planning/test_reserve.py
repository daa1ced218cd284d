"""What the driver will count is what an allocator with its rules really takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.hardware.emulated_allocator import Allocator
from core.hardware.profile import load as card
from core.models.profile import load
from core.planning import reserve
from core.planning.job import job_of
from core.planning.reserve import Reserve

MIB = 2**20
SIZES = st.lists(st.one_of(st.integers(1, 4096), st.integers(4096, 2 * MIB), st.integers(MIB, 30 * MIB)), max_size=40)


@given(weights=SIZES, passing=SIZES, more=SIZES, again=SIZES)
def test_segments_are_those_of_the_allocator(
    weights: list[int], passing: list[int], more: list[int], again: list[int]
) -> None:
    allocator, counted = Allocator(1 << 50), Reserve()
    for size in weights:
        allocator.allocate(size, "weights")
        counted.take(size)
    assert counted.reserved == allocator.reserved
    for sizes in (passing, again):
        held = [allocator.allocate(size, "activations") for size in sizes]
        counted.pass_through(sizes)
        assert counted.reserved == allocator.reserved
        for block in held:
            allocator.free(block)
    for size in more:
        allocator.allocate(size, "weights")
        counted.take(size)
    assert counted.reserved == allocator.reserved


def test_a_copy_is_another_account() -> None:
    one = Reserve()
    one.take(3 * MIB)
    other = one.copy()
    other.take(18 * MIB)
    assert (one.reserved, other.reserved) == (20 * MIB, 38 * MIB)
    one.take(16 * MIB)
    assert one.reserved == 20 * MIB


def test_what_earlier_phases_left_is_used() -> None:
    model = load("sdxl")
    job, hardware = job_of(model), card("rtx-3060")
    by_phase = [reserve.overhead(job, need, hardware, 2, None) for need in model.phases]
    assert by_phase == sorted(by_phase)
    assert by_phase[0] >= reserve.slack(model, 2) > 0
    assert by_phase[-1] < sum(by_phase)


def test_a_larger_picture_takes_more_and_tiles_take_less() -> None:
    model, hardware = load("sdxl"), card("rtx-3060")
    decode = model.phases[-1]
    small, large = (job_of(model, width=edge, height=edge) for edge in (1024, 2048))
    whole = reserve.overhead(large, decode, hardware, 2, None)
    assert whole > 3 * reserve.overhead(small, decode, hardware, 2, None)
    assert reserve.overhead(large, decode, hardware, 2, 64) < 0.5 * whole
    assert reserve.overhead(job_of(model, batch=2), decode, hardware, 2, None) > reserve.overhead(
        small, decode, hardware, 2, None
    )


def test_who_has_no_such_allocator() -> None:
    assert reserve.counted(card("rx-7800-xt"))
    assert not reserve.counted(card("apple-m1"))
