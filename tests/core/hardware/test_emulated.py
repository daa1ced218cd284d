"""An emulated card keeps a device's laws: memory that runs out, order by events only, poison, and time that passes.

Where times are compared they are the card's own, which do not depend on how busy this machine is; the host's clock only
has to be no earlier.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.hardware.buffers import POISON
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.hardware.emulated_timeline import COMPUTE, COPY, Timeline
from core.hardware.interface import Accelerator, EventNotRecordedError, Queue, Work

MIB = 2**20
SIZE = 4 * MIB


def card(**changes: object) -> EmulatedCard:
    """256 MiB behind a link of 40 MiB/s: a copy of SIZE takes 0.1 s, of which the real one is a hundredth."""
    numbers: dict[str, object] = {
        "name": "card",
        "title": "Card",
        "memory_bytes": 256 * MIB,
        "context_bytes": 8 * MIB,
        "headroom_bytes": 16 * MIB,
        "pinned_rate": 40.0 * MIB,
        "pageable_rate": 20.0 * MIB,
        "copy_latency_seconds": 0.0,
        "compute_slowdown": 0.0,
        "copy_slowdown": 0.0,
    }
    return EmulatedCard(**{**numbers, **changes})  # type: ignore[arg-type]


Make = Callable[..., EmulatedAccelerator]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[EmulatedAccelerator] = []

    def build(**changes: object) -> EmulatedAccelerator:
        made.append(EmulatedAccelerator(card(**changes)))
        return made[-1]

    yield build
    for accelerator in made:
        accelerator.close()


@pytest.fixture
def device(make: Make) -> EmulatedAccelerator:
    return make()


@pytest.fixture
def slow(make: Make) -> EmulatedAccelerator:
    """A copy of SIZE takes 0.4 s: longer than this thread is ever kept waiting."""
    return make(pinned_rate=10.0 * MIB)


def ring(device: Accelerator, value: int, size: int = SIZE) -> torch.Tensor:
    return device.pinned(size).fill_(value)


def keep_busy(queue: Queue) -> None:
    """While this runs, all that a test measures is enqueued, without gaps."""
    queue.launch(lambda: None, Work(seconds=0.25))


# -- memory ---------------------------------------------------------------------------------------------------------


def test_memory_runs_out_and_comes_back(device: EmulatedAccelerator) -> None:
    buffers = [device.allocate(50 * MIB, "transformer") for _ in range(4)]
    with pytest.raises(torch.OutOfMemoryError, match=r"tried to allocate 50\.0 MiB"):
        device.allocate(50 * MIB, "vae")
    device.free(buffers.pop())
    device.allocate(50 * MIB, "vae")
    assert device.held_bytes() == {"transformer": 150 * MIB, "vae": 50 * MIB}


def test_memory_counts_context_and_others_and_the_peak_the_reserve(device: EmulatedAccelerator) -> None:
    assert device.memory() == (256 * MIB, 248 * MIB)
    small = device.allocate(100, "bias")  # a segment of 2 MiB
    assert device.memory() == (256 * MIB, 246 * MIB)
    assert device.peak_bytes() == 2 * MIB
    device.free(small)
    assert device.memory() == (256 * MIB, 246 * MIB)
    assert device.budget_bytes() == 232 * MIB  # what is reserved and free is ours to use
    device.release_cached()
    assert device.memory() == (256 * MIB, 248 * MIB)
    device.occupy(100 * MIB)
    assert device.budget_bytes() == 132 * MIB
    assert device.budget_bytes(headroom_bytes=0) == 148 * MIB
    device.reset_peak()
    assert device.peak_bytes() == 0


def test_one_allocation_has_a_limit(make: Make) -> None:
    device = make(largest_allocation=32 * MIB)
    device.allocate(32 * MIB, "slab")
    with pytest.raises(torch.OutOfMemoryError, match="one allocation may have"):
        device.allocate(32 * MIB + 1, "slab")


def test_what_was_freed_is_poison_and_cannot_be_freed_again(device: EmulatedAccelerator) -> None:
    weight = device.place(torch.ones(8, 8), "vae")
    assert weight.sum() == 64
    device.free(weight)
    device.synchronize()
    assert weight.isnan().all()
    with pytest.raises(RuntimeError, match="freed before"):
        device.free(weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_poison_is_no_number_in_any_format(dtype: torch.dtype, device: EmulatedAccelerator) -> None:
    fresh = device.allocate(64, "slot").view(dtype)
    assert fresh.float().isnan().all()
    assert device.absent(torch.ones(3, 5).to(dtype)).float().isnan().all()


def test_a_placed_tensor_keeps_layout_and_bytes(device: EmulatedAccelerator) -> None:
    for tensor in (
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(6, 4).t(),
        torch.arange(5),
        torch.tensor(2.5),
        torch.tensor([True, False]),
        torch.empty(0, 3),
        torch.randn(3, 1).expand(3, 4),
    ):
        placed = device.place(tensor, "encoder")
        assert torch.equal(placed, tensor)
        assert placed.stride() == torch.empty_like(tensor).stride()
        assert placed.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()


# -- order and poison -----------------------------------------------------------------------------------------------


def test_a_slot_is_poison_until_its_copy_has_ended(slow: EmulatedAccelerator) -> None:
    slot = slow.allocate(SIZE, "slot").zero_()
    slow.copy_queue.copy(slot, ring(slow, 7))
    event = slow.copy_queue.record()
    seen = set()
    while not event.query():
        seen.add((int(slot[0]), int(slot[-1])))
        time.sleep(0.005)
    assert (POISON, POISON) in seen
    assert (slot == 7).all()


def test_a_ring_buffer_that_is_written_too_early_spoils_the_copy(device: EmulatedAccelerator) -> None:
    slot, source = device.allocate(SIZE, "slot"), ring(device, 7)
    device.copy_queue.copy(slot, source)
    device.discard(source)
    device.synchronize()
    assert (slot == POISON).all()


def test_an_event_that_was_never_recorded_is_refused_everywhere(device: EmulatedAccelerator) -> None:
    event = device.event()
    for wait in (event.query, event.synchronize, lambda: device.compute_queue.wait(event)):
        with pytest.raises(EventNotRecordedError):
            wait()


def test_kernels_see_what_they_wait_for_and_poison_if_they_do_not(slow: EmulatedAccelerator) -> None:
    slot, source = slow.allocate(SIZE, "slot"), ring(slow, 7)
    early, late = torch.zeros(1), torch.zeros(1)
    slow.copy_queue.copy(slot, source)
    slow.compute_queue.launch(lambda: early.copy_(slot[:1]), Work(seconds=0.0))
    slow.compute_queue.wait(slow.copy_queue.record())
    slow.compute_queue.launch(lambda: late.copy_(slot[:1]), Work(seconds=0.0))
    slow.synchronize()
    assert (early.item(), late.item()) == (POISON, 7)


def test_a_wait_is_for_the_newest_recording_at_its_time(device: EmulatedAccelerator) -> None:
    slots = [device.allocate(SIZE, "slot") for _ in range(2)]
    event = device.event()
    seen = []
    for slot, value in zip(slots, (3, 5), strict=True):
        device.copy_queue.copy(slot, ring(device, value))
        device.copy_queue.record(event)
        device.compute_queue.wait(event)
        device.compute_queue.launch(lambda slot=slot: seen.append(int(slot[9])), Work(seconds=0.0))
    device.synchronize()
    assert seen == [3, 5]


def test_what_runs_in_this_thread_waits_for_its_turn(device: EmulatedAccelerator) -> None:
    slot = device.allocate(SIZE, "slot")
    begin = time.monotonic()
    device.copy_queue.copy(slot, ring(device, 9))
    device.compute_queue.wait(device.copy_queue.record())
    with device.compute_queue.running(Work(seconds=0.4)):
        assert (slot == 9).all()
    left = device.compute_queue.record()
    assert not left.query()  # the host went on before the modelled end
    left.synchronize()
    assert time.monotonic() - begin > 0.49


def test_a_buffer_is_not_freed_under_a_copy(slow: EmulatedAccelerator) -> None:
    slot = slow.allocate(SIZE, "slot")
    slow.copy_queue.copy(slot, ring(slow, 1))
    with pytest.raises(RuntimeError, match="in flight"):
        slow.free(slot)


def test_kernels_launched_before_still_read_what_is_freed(device: EmulatedAccelerator) -> None:
    weight = device.place(torch.full((4,), 3.0), "vae")
    read = torch.zeros(4)
    device.compute_queue.launch(lambda: read.copy_(weight), Work(seconds=0.05))
    device.free(weight)
    device.synchronize()
    assert read.tolist() == [3.0] * 4


def test_copies_are_of_bytes_on_the_card(device: EmulatedAccelerator) -> None:
    slot = device.allocate(8, "slot")
    with pytest.raises(ValueError, match="the same"):
        device.copy_queue.copy(slot, torch.zeros(2))
    with pytest.raises(ValueError, match="neither end"):
        device.copy_queue.copy(torch.zeros(8), torch.zeros(8))


def test_a_kernel_that_fails_is_told_by_synchronize(device: EmulatedAccelerator) -> None:
    device.compute_queue.launch(lambda: torch.zeros(2) @ torch.zeros(3), Work(seconds=0.0))
    with pytest.raises(RuntimeError, match="compute queue failed"):
        device.synchronize()
    with pytest.raises(RuntimeError, match="compute queue failed"):
        device.compute_queue.launch(lambda: None)


# -- time -----------------------------------------------------------------------------------------------------------


def test_a_copy_takes_its_bytes_over_the_rate_and_its_latency(make: Make) -> None:
    device = make(copy_latency_seconds=0.01)
    slot, pinned, pageable = device.allocate(SIZE, "slot"), ring(device, 1), torch.ones(SIZE, dtype=torch.uint8)
    queue = device.copy_queue
    started = time.monotonic()
    keep_busy(queue)
    marks = [queue.record()]
    for source in (pinned, pinned[: SIZE // 2], pageable):
        queue.copy(slot[: source.nbytes], source)
        marks.append(queue.record())
    device.synchronize()
    whole, half, slow = (b.seconds_since(a) for a, b in pairwise(marks))
    assert time.monotonic() - started > 0.6
    assert (whole, half) == pytest.approx((0.11, 0.06), abs=1e-6)
    assert 0.2099 < slow < 0.5  # the mark behind it was enqueued when the host had waited for it


def test_pageable_copies_keep_the_host_waiting(slow: EmulatedAccelerator) -> None:
    slot = slow.allocate(SIZE, "slot")
    slow.copy_queue.copy(slot, ring(slow, 1))
    assert not slow.copy_queue.record().query()
    slow.copy_queue.copy(slot, torch.full((SIZE,), 2, dtype=torch.uint8))
    assert (slot == 2).all()


def test_sleeping_too_long_does_not_add_up(device: EmulatedAccelerator) -> None:
    queue = device.compute_queue
    keep_busy(queue)
    begin = queue.record()
    for _ in range(1000):
        queue.launch(lambda: None, Work(seconds=2e-4))
    end = queue.record()
    started = time.monotonic()
    device.synchronize()
    assert end.seconds_since(begin) == pytest.approx(0.2, abs=1e-3)
    assert time.monotonic() - started > 0.15


def test_copies_and_kernels_run_beside_each_other(device: EmulatedAccelerator) -> None:
    slot, source = device.allocate(SIZE, "slot"), ring(device, 1)
    begin = device.copy_queue.record()
    for _ in range(3):
        device.copy_queue.copy(slot, source)
    device.compute_queue.launch(lambda: None, Work(seconds=0.3))
    ends = device.copy_queue.record(), device.compute_queue.record()
    device.synchronize()
    assert all(end.seconds_since(begin) == pytest.approx(0.3, abs=0.15) for end in ends)


def test_copying_slows_kernels_and_kernels_slow_copies(make: Make) -> None:
    device = make(compute_slowdown=0.5, copy_slowdown=0.2)
    slot, source = device.allocate(SIZE, "slot"), ring(device, 1)
    copies, compute = device.copy_queue, device.compute_queue
    keep_busy(copies)
    first = copies.record()
    compute.wait(first)
    for _ in range(4):
        copies.copy(slot, source)
    last = copies.record()
    compute.launch(lambda: None, Work(seconds=0.1))
    done = compute.record()
    device.synchronize()
    # 0.1 s of computing take 0.15 s beside copies, which do 0.125 s of their 0.4 s meanwhile
    assert done.seconds_since(first) == pytest.approx(0.15, abs=2e-3)
    assert last.seconds_since(first) == pytest.approx(0.425, abs=2e-3)


def test_dilation_stretches_the_clock_and_not_the_figures(make: Make) -> None:
    device = make(dilation=5.0)
    queue = device.compute_queue
    keep_busy(queue)
    begin = queue.record()
    queue.launch(lambda: None, Work(seconds=0.02))
    end = queue.record()
    started = time.monotonic()
    device.synchronize()
    assert end.seconds_since(begin) == pytest.approx(0.02, abs=1e-6)
    assert time.monotonic() - started > 0.1


def test_kernels_take_their_modelled_time_and_those_not_needed_nothing_else(make: Make) -> None:
    device = make(matmul_rate={"F32": 1e9}, memory_bandwidth=1e9, decode_rate={"Q8_0": 1e8}, launch_seconds=0.001)
    works = {
        0.1: Work(flops=1e8, bytes=1e6),
        0.2: Work(flops=1e6, bytes=2e8, compute="BF16"),
        0.05: Work(decoded_bytes=5e6, stored="Q8_0"),
        0.001: Work(bytes=2),
    }
    queue, ran = device.compute_queue, []
    keep_busy(queue)
    marks = [queue.record()]
    for work in works.values():
        queue.launch(lambda: ran.append(1), work, needed=False)
        marks.append(queue.record())
    device.synchronize()
    took = [b.seconds_since(a) for a, b in pairwise(marks)]
    assert took == pytest.approx(list(works), abs=1e-6)
    assert ran == []


def test_a_slow_kernel_leaves_the_modelled_time_as_it_is(device: EmulatedAccelerator) -> None:
    queue = device.compute_queue
    begin = queue.record()
    queue.launch(lambda: time.sleep(0.5), Work(seconds=0.01))
    queue.launch(lambda: None, Work(seconds=0.01))
    end = queue.record()
    device.synchronize()
    assert end.seconds_since(begin) < 0.4
    assert device.lag_seconds > 0.4


def test_jitter_comes_from_the_seed(make: Make) -> None:
    def times(seed: int) -> list[float]:
        device = make(jitter=0.1, seed=seed)
        queue = device.compute_queue
        keep_busy(queue)
        marks = [queue.record()]
        for _ in range(5):
            queue.launch(lambda: None, Work(seconds=0.001))
            marks.append(queue.record())
        device.synchronize()
        return [b.seconds_since(a) for a, b in pairwise(marks)]

    first = times(1)
    assert times(1) == pytest.approx(first, rel=1e-3)
    assert times(2) != pytest.approx(first, rel=1e-3)
    assert len(set(first)) == 5


def test_threads_end_with_the_card() -> None:
    def count() -> int:  # of queues' threads; other tests' engines come and go
        return sum(thread.name.startswith("emulated ") for thread in threading.enumerate())

    gc.collect()
    before = count()
    device = EmulatedAccelerator(card())
    device.place(torch.ones(4), "vae")
    device.compute_queue.launch(lambda: None)
    device.synchronize()
    assert count() == before + 2
    del device
    gc.collect()
    until = time.monotonic() + 5
    while count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert count() == before


@given(
    work=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
    starts=st.tuples(st.floats(0, 3), st.floats(0, 3)),
    slowdowns=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_the_timeline_is_that_of_small_steps(
    work: tuple[float, float], starts: tuple[float, float], slowdowns: tuple[float, float]
) -> None:
    """Against a simulation in steps of 10 ms; the moments lie in the past, so that nobody has to sleep."""
    timeline = Timeline(slowdowns)
    first, second = sorted((COPY, COMPUTE), key=lambda lane: starts[lane])
    timeline.begin(first, starts[first], work[first])
    ends = {}
    if timeline._end(first) <= starts[second]:
        ends[first] = timeline.finish(first)
    timeline.begin(second, starts[second], work[second])
    for lane in sorted({first, second} - set(ends), key=timeline._end):
        ends[lane] = timeline.finish(lane)
    step, now, left, expected = 0.01, min(starts), list(work), {}
    while len(expected) < 2:
        active = [lane for lane in (COPY, COMPUTE) if starts[lane] <= now and lane not in expected]
        for lane in active:
            left[lane] -= step / (1 + slowdowns[lane] * (len(active) == 2))
            if left[lane] <= 0:
                expected[lane] = now
        now += step
    assert ends == pytest.approx(expected, abs=0.05)
