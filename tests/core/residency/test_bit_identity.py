"""Where weights are never changes pixels: every family, resident, partly streamed, or all of it through two slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.library.queue import JobQueue
from core.messages import Event, How, LedgerRecord, Request, Result
from tests.events import result_of
from tests.tiny_models import FAMILIES, make

MIB = 2**20


def card(title: str, memory_bytes: int) -> EmulatedAccelerator:
    return EmulatedAccelerator(
        EmulatedCard(
            name="card",
            title=title,  # encodings are kept by the device's name
            memory_bytes=memory_bytes,
            context_bytes=2 * MIB,
            headroom_bytes=2 * MIB,
            pinned_rate=2e9,
            pageable_rate=1e9,
        )
    )


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Client]]:
    engines: list[Client] = []

    def begin(title: str, memory_bytes: int = 512 * MIB) -> Client:
        engines.append(InProcessEngine(JobQueue(None), accelerator=card(title, memory_bytes)))
        engines[-1].start()
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close()


def picture(engine: Client, model: str, how: How, size: int = 64, seen: list[Event] | None = None) -> Result:
    request = Request(
        prompt="a red house by the sea", model=model, seed=1, steps=2, width=size, height=size, draft=True, how=how
    )
    engine.submit(request)
    return result_of(engine, request.id, seen=seen)


PACKED = {"flux": "Q8_0", "qwen_image": "Q4_0", "starter": "Q4_K"}


@pytest.mark.parametrize(
    ("family", "stored"), [*((family, "F16") for family in (*FAMILIES, "starter")), *PACKED.items()]
)
def test_pixels_are_the_same_wherever_weights_are(
    family: str, stored: str, start: Callable[..., Client], tmp_path: Path
) -> None:
    model = "starter" if family == "starter" else str(make(family, tmp_path / family))
    denoiser = "unet" if family == "sdxl" else "transformer"
    formats = {denoiser: stored if stored != "F16" else "F32"}

    def how(residency: str, slots: int | None = None) -> How:
        return How(residency={denoiser: residency}, formats=formats, slots=slots, fold=False)

    resident = picture(start("Card for residents"), model, how("resident"))
    whole = resident.components[denoiser]
    assert whole.format == formats[denoiser]
    assert whole.streamed_bytes == 0
    assert resident.link_bytes == sum(component.bytes for component in resident.components.values())

    streaming = start("Card for streaming")
    seen: list[Event] = []
    streamed = picture(streaming, model, how("streamed"), seen=seen)
    assert streamed.pixels_sha256 == resident.pixels_sha256
    used = streamed.components[denoiser]
    assert 0 < used.peak_bytes < whole.peak_bytes
    assert used.peak_bytes + used.streamed_bytes == whole.peak_bytes  # without slots, which have their own account
    assert streamed.link_bytes > resident.link_bytes
    slots = [event for event in seen if isinstance(event, LedgerRecord) and event.component == "slots"]
    assert sum(event.change for event in slots) == 0
    assert any("stream" in event.reason for event in slots)

    for blocks in ("1", "2"):
        part = picture(streaming, model, how(blocks))
        assert part.pixels_sha256 == resident.pixels_sha256
        assert used.peak_bytes <= part.components[denoiser].peak_bytes <= whole.peak_bytes
    assert picture(streaming, model, how("streamed", slots=3)).pixels_sha256 == resident.pixels_sha256


def test_pixels_are_the_same_at_every_budget_and_the_card_is_never_overdrawn(start: Callable[..., Client]) -> None:
    how = How(formats={"transformer": "F32", "text_encoder_2": "Q8_0"})
    roomy = picture(start("Card with room"), "starter", how)
    streamed = []
    for memory in (96, 72, 64, 56, 52):
        result = picture(start("Card with less", memory * MIB), "starter", how)
        assert result.pixels_sha256 == roomy.pixels_sha256
        assert result.peak_device_bytes <= memory * MIB
        streamed.append(result.components["transformer"].streamed_bytes)
    assert streamed[0] <= streamed[-1]
