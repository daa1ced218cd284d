"""What a plan says of memory is what the driver counts when it is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.engine import InProcessEngine
from core.library.queue import JobQueue
from core.messages import Event, How, Planned, Request
from tests.cards import emulated
from tests.events import result_of

MIB = 2**20
CONTEXT = 8 * MIB


@pytest.mark.parametrize("edge", [64, 128, 256, 384])
def test_the_first_plans_peak_is_the_drivers(edge: int, home: Path) -> None:
    card = emulated(
        name="roomy",
        title="A card with room",
        memory_bytes=1024 * MIB,
        context_bytes=CONTEXT,
        headroom_bytes=8 * MIB,
        pinned_rate=4e9,
    )
    engine = InProcessEngine(JobQueue(None), accelerator=card)
    engine.start()
    seen: list[Event] = []
    try:
        request = Request(prompt="a red house", seed=1, steps=1, width=edge, height=edge, draft=True)
        engine.submit(request)
        result = result_of(engine, request.id, seen=seen)
    finally:
        engine.close()
    plan = next(event.plan for event in seen if isinstance(event, Planned))
    card.close()
    assert result.peak_device_bytes == pytest.approx(plan.peak_bytes, rel=0.05)
    assert result.predicted.peak_device_bytes == plan.peak_bytes


@pytest.mark.parametrize(
    ("memory", "how"),
    [
        (96, How(formats={"transformer": "Q8_0"})),
        (96, How(formats={"transformer": "Q8_0"}, residency={"transformer": "2"})),
        (64, How(residency={"transformer": "streamed"})),
        (512, How(formats={"transformer": "Q4_K"}, fold=False)),
    ],
)
def test_so_it_is_on_tiny_cards_and_for_known_texts(memory: int, how: How, home: Path) -> None:
    card = emulated(
        name=f"tiny {memory}",
        title=f"A card with {memory} MB",
        memory_bytes=memory * 10**6,
        context_bytes=memory * 10**6 // 16,
        headroom_bytes=memory * 10**6 // 4,
        pinned_rate=4e9,
    )
    engine = InProcessEngine(JobQueue(None), accelerator=card)
    engine.start()
    sizes = [128, 128, 64]  # a fresh text, then a known one with everything warm, then a smaller picture
    try:
        for seed, edge in enumerate(sizes):
            request = Request(prompt="a red house", seed=seed, steps=1, width=edge, height=edge, how=how)
            engine.submit(request)
            result = result_of(engine, request.id)
            assert result.predicted is not None
            assert result.peak_device_bytes == pytest.approx(result.predicted.peak_device_bytes, rel=0.05)
            assert result.peak_device_bytes <= result.budget_bytes
    finally:
        engine.close()
        card.close()


def test_a_processors_peak_is_of_weights_and_of_those_that_load(home: Path) -> None:
    engine = InProcessEngine(JobQueue(None), accelerator="cpu")
    engine.start()
    seen = []
    try:
        for seed in range(2):
            request = Request(prompt="a blue boat", seed=seed, steps=1, width=64, height=64)
            engine.submit(request)
            seen.append(result_of(engine, request.id))
    finally:
        engine.close()
    for result in seen:
        assert result.predicted is not None
        assert result.peak_device_bytes == pytest.approx(result.predicted.peak_device_bytes, rel=0.05)
