"""Where weights are never changes pixels: every family, resident, partly streamed, or all of it through two slots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.emulated import EmulatedAccelerator
from core.library.queue import JobQueue
from core.messages import Event, How, LedgerRecord, Phase, Planned, Progress, Request, Result
from core.models.info import ModelInfo
from core.plans import Plan
from core.scheduler.planner import Planner
from tests.cards import emulated
from tests.events import result_of
from tests.tiny_models import FAMILIES, make

MIB = 2**20


def card(title: str, memory_bytes: int) -> EmulatedAccelerator:
    return emulated(title=title, memory_bytes=memory_bytes)


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


def picture(
    engine: Client,
    model: str,
    how: How,
    *,
    frames: int | None = None,
    steps: int = 2,
    seen: list[Event] | None = None,
) -> Result:
    request = Request(
        prompt="a red house by the sea",
        model=model,
        seed=1,
        steps=steps,
        width=64,
        height=64,
        frames=frames,
        draft=True,
        how=how,
    )
    engine.submit(request)
    return result_of(engine, request.id, seen=seen)


PACKED = {
    "flux": "Q8_0",
    "qwen_image": "Q4_0",
    "starter": "Q4_K",
    "flux2": "Q8_0",
    "flux2_klein": "Q4_0",
    "wan": "Q4_0",
    "wan22": "Q8_0",
    "ltx": "Q8_0",
}
FRAMES = {"wan": 5, "wan22": 5, "ltx": 9}
STEPS = {"wan22": 4}  # two for each expert


@pytest.mark.parametrize(
    ("family", "stored"), [*((family, "F16") for family in (*FAMILIES, "starter")), *PACKED.items()]
)
def test_pixels_are_the_same_wherever_weights_are(
    family: str, stored: str, start: Callable[..., Client], tmp_path: Path
) -> None:
    model = "starter" if family == "starter" else str(make(family, tmp_path / family))
    denoisers = {"sdxl": ["unet"], "wan22": ["transformer", "transformer_2"]}.get(family, ["transformer"])
    formats = dict.fromkeys(denoisers, stored if stored != "F16" else "F32")
    paint = partial(picture, model=model, frames=FRAMES.get(family), steps=STEPS.get(family, 2))

    def how(residency: str, slots: int | None = None) -> How:
        return How(residency=dict.fromkeys(denoisers, residency), formats=formats, slots=slots, fold=False)

    resident = paint(start("Card for residents"), how=how("resident"))
    assert resident.frames == FRAMES.get(family, 1)
    for denoiser in denoisers:
        whole = resident.components[denoiser]
        assert whole.format == formats[denoiser]
        assert whole.streamed_bytes == 0
    assert resident.link_bytes == sum(component.bytes for component in resident.components.values())

    streaming = start("Card for streaming")
    seen: list[Event] = []
    streamed = paint(streaming, how=how("streamed"), seen=seen)
    assert streamed.pixels_sha256 == resident.pixels_sha256
    for denoiser in denoisers:
        used, whole = streamed.components[denoiser], resident.components[denoiser]
        assert 0 < used.peak_bytes < whole.peak_bytes
        assert used.peak_bytes + used.streamed_bytes == whole.peak_bytes  # without slots, which have their own account
    assert streamed.link_bytes > resident.link_bytes
    slots = [event for event in seen if isinstance(event, LedgerRecord) and event.component == "slots"]
    assert sum(event.change for event in slots) == 0
    assert any("stream" in event.reason for event in slots)

    for blocks in ("1", "2"):
        part = paint(streaming, how=how(blocks))
        assert part.pixels_sha256 == resident.pixels_sha256
        for denoiser in denoisers:
            peaks = [result.components[denoiser].peak_bytes for result in (streamed, part, resident)]
            assert peaks == sorted(peaks)
    again = paint(streaming, how=how("streamed", slots=3))
    assert again.pixels_sha256 == resident.pixels_sha256


@pytest.mark.parametrize("family", ["flux2", "flux2_klein"])
def test_folding_what_lies_outside_of_blocks_changes_no_pixel(
    family: str, start: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of FLUX.2 share their modulation, so that a plan folds it only where bytes are short."""
    plan = Planner.plan

    def told(self: Planner, info: ModelInfo, request: Request, *args: Any, **options: Any) -> Plan:
        return plan(self, info, request, *args, **{**options, "fold": request.how.fold})

    monkeypatch.setattr(Planner, "plan", told)
    engine, model = start("Card that folds"), str(make(family, tmp_path / family))
    for stored in ("F32", "Q8_0"):
        how = partial(How, residency={"transformer": "streamed"}, formats={"transformer": stored})
        whole, folding = (picture(engine, model, how(fold=fold)) for fold in (False, True))
        assert whole.pixels_sha256 == folding.pixels_sha256
        used, before = folding.components["transformer"], whole.components["transformer"]
        assert used.folded_bytes > 0
        assert used.bytes + used.folded_bytes == before.bytes


def test_experts_are_held_one_after_the_other(start: Callable[..., Client], tmp_path: Path) -> None:
    """As the plan says: each has its own part of the steps, and its weights are needed in no other."""
    seen: list[Event] = []
    model = str(make("wan22", tmp_path / "wan22"))
    experts = ("transformer", "transformer_2")
    how = How(residency=dict.fromkeys(experts, "streamed"), formats=dict.fromkeys(experts, "F32"), cache=False)
    engine = start("Card for experts")
    result = picture(engine, model, how, frames=5, steps=4, seen=seen)
    (plan,) = [event.plan for event in seen if isinstance(event, Planned)]
    phases = [phase for phase in plan.phases if phase.phase is Phase.DENOISE]
    assert [[placement.component for placement in phase.placements] for phase in phases] == [[name] for name in experts]
    assert [(phase.label, phase.steps) for phase in phases] == [("denoise, high noise", 2), ("denoise, low noise", 2)]
    assert result.predicted is not None
    assert {"denoise, high noise", "denoise, low noise"} <= set(result.predicted.phases)
    tables = 2 * 2 * 64 * 16 * 4  # of rotary positions, which no file holds and no plan counts
    assert abs(result.link_bytes - tables - plan.link_bytes) <= 1024
    steps = [event.step for event in seen if isinstance(event, Progress) and event.phase is Phase.DENOISE]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 4)
    # all steps may be the first expert's
    assert picture(engine, model, how, frames=1, steps=1).steps == 1


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
