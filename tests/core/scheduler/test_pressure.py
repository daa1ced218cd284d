"""Memory that goes away under a picture: weights move, it goes on at the same step, and pixels stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.emulated import EmulatedAccelerator
from core.library.queue import JobQueue
from core.messages import Event, Failed, Finished, How, LedgerRecord, Phase, Planned, Progress, Request, Result, Started
from tests.cards import emulated
from tests.tiny_models import make

MIB = 2**20
STEPS = 8
CARD = 512 * MIB  # large enough that the allocator's segments of 20 MiB are small beside it


def new_card() -> EmulatedAccelerator:
    return emulated(title="Card under pressure", memory_bytes=CARD, pinned_rate=8e9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Flux whose transformer has 160 MB in F32, in blocks of 35 and 14 MB."""
    folder = make("flux", tmp_path_factory.mktemp("models") / "flux")
    config = {
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 6,
        "attention_head_dim": 32,
        "num_attention_heads": 16,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (8, 12, 12),
    }
    FluxTransformer2DModel(**config).half().save_pretrained(folder / "transformer")
    return str(folder)


@pytest.fixture
def start(home: Path) -> Iterator[Callable[[EmulatedAccelerator], Client]]:
    engines: list[Client] = []

    def begin(card: EmulatedAccelerator) -> Client:
        engines.append(InProcessEngine(JobQueue(None), accelerator=card))
        engines[-1].start()
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


def picture(
    engine: Client, model: str, on_step: Callable[[int], None] = lambda step: None
) -> tuple[Result, list[Event]]:
    request = Request(
        prompt="a red house by the sea",
        model=model,
        seed=1,
        steps=STEPS,
        width=64,
        height=64,
        draft=True,
        how=How(formats={"transformer": "F16"}, fold=False),
    )
    engine.submit(request)
    seen: list[Event] = []
    while True:
        event = engine.next_event(60)
        assert event is not None
        assert not isinstance(event, Failed), event
        seen.append(event)
        if isinstance(event, Progress) and event.phase is Phase.DENOISE:
            on_step(event.step)
        if isinstance(event, Finished):
            return event.result, seen


def test_what_another_program_takes_is_given_way_to_between_two_steps(
    start: Callable[[EmulatedAccelerator], Client], model: str
) -> None:
    roomy, before = picture(start(new_card()), model)
    planned = next(event.plan for event in before if isinstance(event, Planned))
    denoise = next(phase for phase in planned.phases if phase.phase is Phase.DENOISE)
    alone = denoise.peak_bytes - denoise.kept_bytes
    card = new_card()

    def occupy(step: int) -> None:
        if step == 1:
            card.occupy(CARD - 4 * MIB - alone + 40 * MIB)  # 40 MiB less than the transformer needs

    result, seen = picture(start(card), model, occupy)
    assert result.pixels_sha256 == roomy.pixels_sha256
    assert sum(isinstance(event, Started) for event in seen) == 1  # it went on, and was not begun again
    plans = [event.plan for event in seen if isinstance(event, Planned)]
    assert len(plans) > 1
    assert plans[-1].budget_bytes < plans[0].budget_bytes
    assert any("other programs took memory" in reason for reason in plans[1].reasons)
    assert any("other programs took memory" in reason for reason in result.reasons)
    moved = [event for event in seen if isinstance(event, LedgerRecord) and "other programs" in event.reason]
    assert any(event.component == "transformer" and event.change < 0 for event in moved)
    assert card.memory()[1] >= 0


def test_an_activation_that_finds_no_memory_is_not_the_end(
    start: Callable[[EmulatedAccelerator], Client], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy, before = picture(start(new_card()), model)
    card = new_card()
    taken = {"times": 0}
    reserve = card._kernels._reserve

    def scarce(size: int, owner: str) -> Callable[[], None]:
        taken["times"] += 1
        if taken["times"] in (1500, 2500):
            raise torch.OutOfMemoryError("the driver has nothing left")
        return reserve(size, owner)

    monkeypatch.setattr(card._kernels, "_reserve", scarce)
    result, seen = picture(start(card), model)
    assert taken["times"] > 2500
    assert result.pixels_sha256 == roomy.pixels_sha256
    assert any("memory ran out" in reason for reason in result.reasons)
    first = next(event.plan for event in before if isinstance(event, Planned))
    plans = [event.plan for event in seen if isinstance(event, Planned)]
    assert plans[-1].budget_bytes < first.budget_bytes
