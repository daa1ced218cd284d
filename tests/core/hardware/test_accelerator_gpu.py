"""The same interface on a real card: copies beside kernels, events that order them, and a calibration of sense."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.hardware.accelerator import choose
from core.hardware.calibrate import measure
from core.hardware.interface import Accelerator, EventNotRecordedError
from core.hardware.profile import absurdity

pytestmark = pytest.mark.gpu
SIZE = 64 * 2**20


@pytest.fixture(scope="module")
def card() -> Accelerator:
    return choose()


def test_a_kernel_sees_the_copy_that_it_waits_for(card: Accelerator) -> None:
    slot, seen = card.allocate(SIZE, "slot"), card.allocate(SIZE, "seen")
    for value in range(1, 9):
        ring = card.pinned(SIZE).fill_(value)
        assert ring.is_pinned()
        card.copy_queue.copy(slot, ring)
        card.compute_queue.wait(card.copy_queue.record())
        with card.compute_queue.running():
            seen.copy_(slot)
        card.copy_queue.wait(card.compute_queue.record())
        card.synchronize()
        assert (seen == value).all()
    card.free(slot)
    card.free(seen)
    assert card.held_bytes() == {}


def test_events_tell_time_and_must_be_recorded(card: Accelerator) -> None:
    event = card.event()
    with pytest.raises(EventNotRecordedError):
        card.compute_queue.wait(event)
    begin = card.copy_queue.record()
    card.copy_queue.copy(card.allocate(SIZE, "slot"), card.pinned(SIZE))
    end = card.copy_queue.record(event)
    end.synchronize()
    assert end is event
    assert SIZE / 200e9 < end.seconds_since(begin) < 1


def test_the_peak_is_what_torch_took_from_the_driver(card: Accelerator) -> None:
    card.release_cached()
    card.reset_peak()
    before = card.peak_bytes()
    placed = card.place(torch.ones(SIZE), "vae")
    assert card.held_bytes()["vae"] == placed.nbytes
    assert before + placed.nbytes <= card.peak_bytes() <= card.memory()[0]
    card.free(placed)


def test_a_calibration_makes_sense(card: Accelerator, tmp_path: Path) -> None:
    found = measure(card, folder=tmp_path)
    assert absurdity(found) == ""
    assert found.calibrated
    assert found.pinned_rate > found.pageable_rate > 1e8
    assert found.memory_bandwidth > found.pinned_rate
    assert found.matmul_rate["F16"] > 1e11
    assert found.decode_rate["Q8_0"] > 1e9
    assert 0 <= found.contention < 2
    assert set(card.held_bytes()) <= {"slot"}
