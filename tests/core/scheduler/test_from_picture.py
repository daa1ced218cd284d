"""Pictures that start from a picture, on an emulated card: the same pixels wherever weights are, and planned bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.calibrate import known, load_or_measure
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.interface import Accelerator
from core.hardware.profile import HardwareProfile
from core.library.queue import JobQueue
from core.messages import Event, Finished, How, Init, Planned, Request, Result
from core.plans import Plan
from core.scheduler import planner
from tests.cards import emulated
from tests.events import result_of, wait_for

MIB = 2**20
LINK = 20e6  # bytes/s: streaming always takes longer than computing


def known_link(accelerator: Accelerator) -> HardwareProfile:
    """What a calibration would find of the link."""
    return msgspec.structs.replace(known(accelerator), pinned_rate=LINK, pageable_rate=LINK / 2, staged_rate=LINK)


@pytest.fixture
def engine(home: Path) -> Iterator[Callable[[EmulatedAccelerator], Client]]:
    engines: list[Client] = []

    def new(card: EmulatedAccelerator) -> Client:
        engines.append(InProcessEngine(JobQueue(None), accelerator=card))
        return engines[-1]

    yield new
    for client in engines:
        client.close()


def noise(folder: Path, width: int, height: int) -> Init:
    file = folder / f"{width}x{height}.png"
    Image.effect_noise((width, height), 80).convert("RGB").save(file)
    return Init(str(file), 0.5)


def picture(client: Client, request: Request) -> tuple[Result, Plan]:
    seen: list[Event] = []
    client.submit(request)
    result = result_of(client, request.id, seen=seen)
    return result, [event.plan for event in seen if isinstance(event, Planned)][-1]


@pytest.mark.parametrize("family", ["flux", "sdxl", "qwen_image"])
def test_residency_changes_no_pixel(
    family: str, engine: Callable[[EmulatedAccelerator], Client], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    denoiser = "unet" if family == "sdxl" else "transformer"
    init, hashes = noise(tmp_path, 64, 48), []
    client = engine(emulated(title="a card for pixels", memory_bytes=512 * MIB))
    client.start()
    for number, placed in enumerate(("resident", "streamed")):
        how = How(residency={denoiser: placed}, cache=False, tile="off", fold=False)
        request = Request(
            prompt="a house",
            negative_prompt="fog",
            model=str(tiny(family)),
            seed=5,
            steps=4,
            init=init,
            how=how,
            out=str(tmp_path / f"{number}.png"),
        )
        result, plan = picture(client, request)
        streamed = sum(phase.streamed_bytes for phase in plan.phases)
        assert bool(streamed) == (placed == "streamed")
        assert result.peak_device_bytes <= result.budget_bytes + 2 * MIB  # and the driver's context
        hashes.append(result.pixels_sha256)
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(("width", "height", "tile"), [(256, 256, "off"), (512, 512, "off"), (512, 512, "256")])
def test_the_peak_is_the_planned_one(
    width: int, height: int, tile: str, engine: Callable[[EmulatedAccelerator], Client], tmp_path: Path
) -> None:
    card = emulated(title=f"a card for {width} in {tile}", memory_bytes=1024 * MIB, context_bytes=8 * MIB)
    load_or_measure(card)
    request = Request(
        prompt="a red house",
        seed=1,
        steps=2,
        init=noise(tmp_path, width, height),
        width=width,
        height=height,
        how=How(tile=tile),
        out=str(tmp_path / "a.png"),
    )
    client = engine(card)
    client.start()
    result, plan = picture(client, request)
    assert [phase.tile for phase in plan.phases] == [
        None if tile == "off" or name in ("encode", "denoise") else int(tile) // 8
        for name in ("encode", "image encode", "denoise", "decode")
    ]
    assert result.predicted is not None
    assert result.peak_device_bytes == pytest.approx(result.predicted.peak_device_bytes, rel=0.05)


def test_queued_ones_share_what_is_streamed_and_keep_their_pixels(
    engine: Callable[[EmulatedAccelerator], Client],
    tiny: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planner, "known", known_link)
    how = How(residency={"transformer": "streamed"}, cache=False, latency=100.0)
    asked = [
        Request(
            prompt=f"a house, number {number}",
            model=str(tiny("flux")),
            seed=number,
            steps=steps,
            init=msgspec.structs.replace(noise(tmp_path, 64, 48 + 16 * number), strength=strength),
            how=how,
            out=str(tmp_path / f"{number}.png"),
        )
        for number, (steps, strength) in enumerate([(4, 0.5), (4, 1.0), (6, 0.5)])
    ]
    text = msgspec.structs.replace(asked[0], id="text", init=None, width=64, height=48, out=str(tmp_path / "text.png"))
    alone = {}
    client = engine(emulated(title="alone", memory_bytes=512 * MIB, pinned_rate=LINK))
    client.start()
    for request in asked:
        alone[request.id] = picture(client, request)[0].pixels_sha256

    client = engine(emulated(title="together", memory_bytes=512 * MIB, pinned_rate=LINK))
    for request in (*asked, text):
        client.submit(request)
    client.start()
    seen: list[Event] = []
    results = {}
    for _ in range(4):
        result = wait_for(client, Finished, seen=seen).result
        results[result.id] = result
    assert {name: results[name].pixels_sha256 for name in alone} == alone
    plan = next(event.plan for event in seen if isinstance(event, Planned) and event.id == asked[0].id)
    assert plan.together == 3  # what starts from noise has other phases
    image = next(phase for phase in plan.phases if phase.label == "image encode")
    assert image.passes == 3
    assert [results[request.id].made_steps for request in asked] == [2, 4, 3]
    assert results["text"].made_steps is None
