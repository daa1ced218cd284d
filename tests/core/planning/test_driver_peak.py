"""What a plan says of memory is what the driver counts when it is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.engine import InProcessEngine
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.library.queue import JobQueue
from core.messages import Event, Planned, Request
from tests.events import result_of

MIB = 2**20
CONTEXT = 8 * MIB


@pytest.mark.parametrize("edge", [64, 128, 256, 384])
def test_the_first_plans_peak_is_the_drivers(edge: int, home: Path) -> None:
    card = EmulatedAccelerator(
        EmulatedCard(
            name="roomy",
            title="A card with room",
            memory_bytes=1024 * MIB,
            context_bytes=CONTEXT,
            headroom_bytes=8 * MIB,
            pinned_rate=4e9,
            pageable_rate=2e9,
        )
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
    assert result.peak_device_bytes == pytest.approx(plan.peak_bytes + CONTEXT, rel=0.05)
