"""Queued prompts of one model share what crosses the link: the encoders come once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.emulated import EmulatedAccelerator
from core.library.queue import JobQueue
from core.messages import AS_PLANNED, Event, Finished, How, LedgerRecord, Planned, Request
from tests.cards import emulated
from tests.events import wait_for

MIB = 2**20
PROMPTS = ("a red house", "a blue boat", "a castle in the snow", "a tent at night")


@pytest.fixture
def card() -> EmulatedAccelerator:
    """Room for the transformer and its activations, but not for the text encoders beside it while decoding."""
    return emulated(title="a card of 36 MiB", memory_bytes=36 * MIB)


@pytest.fixture
def engine(home: Path, card: EmulatedAccelerator) -> Iterator[Client]:
    client = InProcessEngine(JobQueue(None), accelerator=card)
    yield client
    client.close()


def run_all(engine: Client, folder: Path, how: How = AS_PLANNED) -> tuple[dict[str, str], list[Event]]:
    """Queue every prompt before the engine starts: (pixels by prompt, events)."""
    for number, prompt in enumerate(PROMPTS):
        out = str(folder / f"{number}.png")
        engine.submit(Request(prompt=prompt, seed=1, steps=2, width=64, height=64, out=out, how=how))
    engine.start()
    seen: list[Event] = []
    pixels = {}
    while len(pixels) < len(PROMPTS):
        result = wait_for(engine, Finished, seen=seen).result
        pixels[result.prompt] = result.pixels_sha256
    return pixels, seen


def arrivals(seen: list[Event], component: str) -> int:
    return sum(isinstance(e, LedgerRecord) and e.component == component and e.change > 0 for e in seen)


@pytest.mark.parametrize("patient", [True, False])
def test_the_encoders_cross_the_link_once_for_all_that_wait(
    patient: bool,
    engine: Client,
    tmp_path: Path,
    pixels_of: Callable[[], dict[str, str]],
) -> None:
    pixels, seen = run_all(engine, tmp_path, How(latency=1e6 if patient else 0.0, lockstep=False))
    plans = [event.plan for event in seen if isinstance(event, Planned)]
    assert any(component.kept_bytes < component.bytes for component in plans[0].components)
    assert arrivals(seen, "text_encoder_2") == (1 if patient else len(PROMPTS))
    assert [plan.phases[0].skipped for plan in plans] == [False] + [patient] * (len(PROMPTS) - 1)
    assert pixels == pixels_of()


@pytest.fixture
def pixels_of(home: Path, tmp_path: Path) -> Callable[[], dict[str, str]]:
    """What the processor makes of the same prompts, one by one."""

    def make() -> dict[str, str]:
        client = InProcessEngine(JobQueue(None), accelerator="cpu")
        try:
            (tmp_path / "cpu").mkdir()
            return run_all(client, tmp_path / "cpu")[0]
        finally:
            client.close()

    return make
