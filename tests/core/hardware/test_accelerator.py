"""The interface over torch: queues that do everything at once on the CPU, buffers with owners, and what is refused."""

from __future__ import annotations

import pytest
import torch

from core.hardware.accelerator import TorchAccelerator, choose
from core.hardware.interface import Accelerator, EventNotRecordedError
from core.messages import UserError


@pytest.fixture
def cpu() -> Accelerator:
    return TorchAccelerator("cpu", "CPU")


def test_one_memory_has_no_link(cpu: Accelerator) -> None:
    assert not cpu.has_own_memory
    assert cpu.unified
    assert cpu.copy_queue is cpu.compute_queue
    weight = torch.ones(3)
    assert cpu.place(weight, "vae").data_ptr() == weight.data_ptr()


def test_marks_on_the_cpu_are_moments(cpu: Accelerator) -> None:
    queue = cpu.compute_queue
    target = torch.zeros(4)
    begin = queue.record()
    queue.copy(target, torch.ones(4))
    queue.launch(lambda: target.add_(1))
    with queue.running():
        target.mul_(2)
    end = queue.record()
    assert end.query()
    assert target.tolist() == [4.0] * 4
    assert 0 < end.seconds_since(begin) < 60


def test_an_event_that_was_never_recorded_is_refused_everywhere(cpu: Accelerator) -> None:
    event = cpu.event()
    assert not event.recorded
    for wait in (event.query, event.synchronize, lambda: cpu.compute_queue.wait(event)):
        with pytest.raises(EventNotRecordedError, match="before it was recorded"):
            wait()
    cpu.compute_queue.record(event)
    cpu.compute_queue.wait(event)


def test_buffers_are_aligned_and_have_owners(cpu: Accelerator) -> None:
    slots = [cpu.allocate(1000 + i, "slots") for i in range(3)]
    other = cpu.allocate(10, "ring")
    assert all(slot.data_ptr() % 256 == 0 for slot in slots)
    assert cpu.held_bytes() == {"slots": 3003, "ring": 10}
    cpu.free(slots[1])
    cpu.free(other)
    assert cpu.held_bytes() == {"slots": 2002}


def test_headroom_can_be_asked_for(cpu: Accelerator) -> None:
    free = cpu.memory()[1]
    assert cpu.budget_bytes(headroom_bytes=free * 2) == 0
    # others take and give memory between the two calls
    assert cpu.budget_bytes(headroom_bytes=0) == pytest.approx(free, rel=0.2)


def test_only_an_emulated_card_can_be_another_one() -> None:
    with pytest.raises(UserError, match="can only be emulated"):
        choose("cpu", gpu="rx-7800-xt")
    with pytest.raises(UserError, match="can only be emulated"):
        choose("auto", link_rate=1e9)
    with pytest.raises(UserError, match="no profile of a card called voodoo"):
        choose("emulated", gpu="voodoo-2000")


def test_a_card_is_emulated_by_name_with_another_memory_and_link() -> None:
    card = choose("emulated", gpu="rx-7800-xt", vram_bytes=64_000_000, link_rate=2e9, seed=3)
    assert card.kind == "emulated"
    assert card.memory()[0] == 64_000_000
    assert card.has_own_memory
    assert 0 < card.budget_bytes() < 64_000_000


def test_a_card_without_a_memory_of_its_own_is_not_emulated() -> None:
    with pytest.raises(UserError, match="shares its memory"):
        choose("emulated", gpu="apple-m4")
