"""Today's engine on an emulated card: the CPU's pixels, bytes over a link, and memory that is really short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import nn

from core.engine import InProcessEngine
from core.engine.client import Client
from core.generation.weights import in_memory
from core.hardware.accelerator import TorchAccelerator
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.interface import Accelerator
from core.library.queue import JobQueue
from core.messages import ErrorKind, Event, Failed, LedgerRecord, Request, Result
from core.residency.ledger import Ledger
from core.residency.wanted import Opened, Want
from core.residency.warm import WarmCache
from tests.cards import emulated
from tests.events import result_of, wait_for

MIB = 2**20


def new_card(memory_bytes: int) -> EmulatedAccelerator:
    return emulated(title=f"Card with {memory_bytes} bytes", memory_bytes=memory_bytes)


@pytest.fixture
def start(home: Path) -> Iterator[Callable[[Accelerator], Client]]:
    engines: list[Client] = []

    def begin(accelerator: Accelerator) -> Client:
        engines.append(InProcessEngine(JobQueue(None), accelerator=accelerator))
        engines[-1].start()
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


def picture(engine: Client, seen: list[Event] | None = None) -> Result:
    request = Request(
        prompt="a red house by the sea", model="starter", seed=1, steps=2, width=64, height=64, draft=True
    )
    engine.submit(request)
    return result_of(engine, request.id, seen=seen)


def test_pixels_are_the_cpus_and_memory_is_the_cards(start: Callable[[Accelerator], Client]) -> None:
    expected = picture(start(TorchAccelerator("cpu", "CPU"))).pixels_sha256

    roomy = new_card(128 * MIB)
    engine = start(roomy)
    first, second = picture(engine), picture(engine)
    assert first.pixels_sha256 == second.pixels_sha256 == expected
    assert first.accelerator == "emulated"
    weights = {name: size for name, size in roomy.held_bytes().items() if name != "activations"}
    assert first.link_bytes == sum(weights.values()) == sum(c.bytes for c in first.components.values())
    assert second.link_bytes == 0  # all of it stayed warm
    assert first.link_bytes < first.peak_device_bytes == roomy.peak_bytes()

    # not everything fits: the encoders leave for the transformer, that for the decoder
    tight, seen = new_card(40 * MIB), list[Event]()
    result = picture(start(tight), seen)
    assert result.pixels_sha256 == expected
    assert any(event.change < 0 for event in seen if isinstance(event, LedgerRecord))
    assert result.peak_device_bytes == tight.peak_bytes() <= 40 * MIB


def test_a_component_that_left_is_poison_until_it_is_held_again() -> None:
    card = new_card(32 * MIB)
    cache = WarmCache(card, Ledger(lambda record: None))
    layer = nn.Linear(8, 4).requires_grad_(False)
    rows = torch.ones(2, 8)
    expected = layer(rows)
    opened = Opened(layer, "F32", in_memory(layer))

    def hold() -> AbstractContextManager[Mapping[str, nn.Module]]:
        return cache.hold(
            "id",
            "model",
            [Want("vae", "F32")],
            lambda name, wanted: opened,
            sizes={"vae": 512},
            kept={"vae": None},
            owner="job",
            budget_bytes=20 * MIB,
        )

    for round_trip in (1, 2):
        with hold() as held:
            assert torch.equal(held["vae"](rows), expected)
        assert cache.link_bytes == 512 * round_trip  # weight and bias, each in 256 bytes
        assert card.held_bytes() == {"vae": 512}
        cache.evict_all("job", "to see what is left")
        assert layer(rows).isnan().all()
        assert card.held_bytes() == {}
        assert card.memory() == (32 * MIB, 30 * MIB)
    cache.drop_model("id", "job", "to have the layer back")
    assert torch.equal(layer(rows), expected)
    card.close()


def test_too_little_memory_is_the_users_to_change(start: Callable[[Accelerator], Client]) -> None:
    engine = start(new_card(20 * MIB))
    request = Request(prompt="a red house", model="starter", seed=1, steps=1, draft=True)
    engine.submit(request)
    failed = wait_for(engine, Failed)
    assert failed.kind is ErrorKind.USER
    assert "device memory" in failed.sentence


def test_memory_that_another_program_takes_is_an_error_of_the_users_too(start: Callable[[Accelerator], Client]) -> None:
    """The plan says that it fits; the driver says that it does not."""
    card = new_card(64 * MIB)
    card.budget_bytes = lambda held_bytes=0, headroom_bytes=None: 60 * MIB  # type: ignore[method-assign]
    card.occupy(40 * MIB)
    engine = start(card)
    request = Request(prompt="a red house", model="starter", seed=1, steps=1, draft=True)
    engine.submit(request)
    failed = wait_for(engine, Failed)
    assert failed.kind is ErrorKind.USER
    assert "does not fit" in failed.sentence
    assert "transformer" in failed.sentence
    assert not set(card.held_bytes()) - {"text_encoder", "text_encoder_2"}  # nothing is left of the half that came in
