"""Pictures with LoRAs: the same pixels wherever weights are, within the budget, and nothing of a model loads again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.emulated import EmulatedAccelerator
from core.library.queue import JobQueue
from core.messages import Adapter, Event, Finished, How, LedgerRecord, Planned, Request, Result
from core.plans import Plan
from core.resources import resource
from tests.cards import emulated
from tests.events import result_of, wait_for
from tests.tiny_loras import write

MIB = 2**20
STEPS = 2


def card(memory_bytes: int) -> EmulatedAccelerator:
    return emulated(title=f"Card with LoRAs and {memory_bytes} bytes", memory_bytes=memory_bytes)


class Painter:
    """An engine, and the model that it paints with."""

    def __init__(self, model: str, memory_bytes: int = 512 * MIB) -> None:
        self.model = model
        self.engine: Client = InProcessEngine(JobQueue(None), accelerator=card(memory_bytes))
        self.engine.start()

    def __call__(self, how: How, *loras: Adapter, **asked: Any) -> tuple[Result, Plan, list[Event]]:
        """A picture, its plan, and the events of its run."""
        fixed = {"prompt": "a red house by the sea", "seed": 1, "steps": STEPS, "width": 64, "height": 64}
        request = Request(**(fixed | asked), model=self.model, draft=True, how=how, loras=loras)
        seen: list[Event] = []
        self.engine.submit(request)
        result = result_of(self.engine, request.id, seen=seen)
        return result, [event.plan for event in seen if isinstance(event, Planned)][-1], seen


@pytest.fixture
def painter(home: Path, tiny: Callable[[str], Path]) -> Iterator[Callable[..., Painter]]:
    painters: list[Painter] = []

    def begin(family: str, memory_bytes: int = 512 * MIB) -> Painter:
        painters.append(Painter(family if family == "starter" else str(tiny(family)), memory_bytes))
        return painters[-1]

    yield begin
    for made in painters:
        made.engine.close()


@pytest.fixture
def folder_of(tiny: Callable[[str], Path]) -> Callable[[str], Path]:
    return lambda family: resource("starter", "model") if family == "starter" else tiny(family)


def loras(family: str, folder: Path, where: Path) -> tuple[Adapter, Adapter]:
    """One in each naming: beside all that denoises and the first encoder, and beside the denoiser alone."""
    denoiser = "unet" if family == "sdxl" else "transformer"
    both = write(where / "both.safetensors", folder, (denoiser, "text_encoder"), convolutions=family == "sdxl")
    naming = "kohya" if family in ("sdxl", "sd3") else "diffusers"
    alone = write(where / "alone.safetensors", folder, (denoiser,), naming=naming, seed=1)
    return Adapter(str(both), 0.8), Adapter(str(alone), -0.4)


CASES = [
    *((family, "F32") for family in ("starter", "flux", "flux2", "sdxl", "sd3", "z_image", "qwen_image", "wan", "ltx")),
    ("starter", "Q4_K"),
    ("flux", "Q8_0"),
]


@pytest.mark.parametrize(("family", "stored"), CASES)
def test_pixels_are_the_same_wherever_weights_are(
    family: str, stored: str, painter: Callable[..., Painter], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    beside = loras(family, folder_of(family), tmp_path)
    denoiser = "unet" if family == "sdxl" else "transformer"
    paint = painter(family)

    def how(residency: str, *, slots: int | None = None, fold: bool = False) -> How:
        return How(residency={denoiser: residency}, formats={denoiser: stored}, slots=slots, fold=fold, cache=False)

    plain, before, _ = paint(how("resident"))
    resident, plan, _ = paint(how("resident"), *beside)
    whole = resident.components[denoiser]
    assert resident.pixels_sha256 != plain.pixels_sha256
    assert whole.bytes > plain.components[denoiser].bytes
    planned = plan.component(denoiser).bytes - before.component(denoiser).bytes
    assert planned >= whole.bytes - plain.components[denoiser].bytes  # a kind of blocks counts as its largest one
    assert resident.link_bytes == sum(
        component.bytes - plain.components[name].bytes for name, component in resident.components.items()
    )
    assert paint(how("resident"), beside[0])[0].pixels_sha256 not in (plain.pixels_sha256, resident.pixels_sha256)

    ways = [how("streamed"), how("1")]
    if family in ("starter", "flux"):
        ways += [how("streamed", slots=3), how("2"), how("1", fold=True), how("resident", fold=True)]
    if family != "sdxl":  # a UNet has nothing to fold
        ways.append(how("streamed", fold=True))
    for way in ways:
        result = paint(way, *beside)[0]
        assert result.pixels_sha256 == resident.pixels_sha256, way
        used = result.components[denoiser]
        if way.residency[denoiser] == "streamed":
            assert 0 < used.streamed_bytes < whole.bytes
            assert used.resident_bytes + used.streamed_bytes + used.folded_bytes == whole.bytes
    assert paint(how("resident"))[0].pixels_sha256 == plain.pixels_sha256


def test_adding_weighing_and_removing_loads_nothing_of_the_model(
    painter: Callable[..., Painter], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    both, alone = loras("starter", folder_of("starter"), tmp_path)
    paint = painter("starter")
    how = How(formats={"transformer": "F32", "text_encoder_2": "F32"}, fold=False, cache=False)
    first = paint(how)[0]
    own = sum(component.bytes for component in first.components.values())
    assert first.link_bytes == own

    def more(*beside: Adapter) -> tuple[int, int, str]:
        result = paint(how, *beside)[0]
        held = sum(component.bytes for component in result.components.values())
        return result.link_bytes, held - own, result.pixels_sha256

    link, one, first_hash = more(both)
    assert link == one > 0
    assert more(both) == (0, one, first_hash)
    assert more(Adapter(both.file, 0.3))[:2] == (0, one)
    link, two, _ = more(both, alone)
    assert link == two - one > 0
    assert more(both) == (0, one, first_hash)
    assert more() == (0, 0, first.pixels_sha256)


def test_pixels_are_the_same_at_every_budget_and_the_card_is_never_overdrawn(
    painter: Callable[..., Painter], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    beside = loras("starter", folder_of("starter"), tmp_path)
    how = How(formats={"transformer": "F32", "text_encoder_2": "Q8_0"})
    pixels = set()
    streamed = []
    for memory in (512, 36, 32, 28):
        result, plan, seen = painter("starter", memory * MIB)(how, *beside)
        pixels.add(result.pixels_sha256)
        assert result.peak_device_bytes <= memory * MIB
        records = [event for event in seen if isinstance(event, LedgerRecord)]
        assert max(record.resident_bytes for record in records) <= plan.budget_bytes
        assert any("both and alone beside the transformer" in reason for reason in result.reasons)
        used, planned = result.components["transformer"], plan.component("transformer")
        assert (used.bytes, used.folded_bytes) == (planned.bytes, planned.folded_bytes)
        streamed.append(used.streamed_bytes)
    assert len(pixels) == 1
    assert streamed[0] == 0 < streamed[-1]


def test_queued_prompts_with_other_loras_are_made_for_themselves(
    painter: Callable[..., Painter], folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    both, alone = loras("starter", folder_of("starter"), tmp_path)
    asked = [(), (both,), (both,), (alone,), (both, alone)]
    requests = [
        Request(
            prompt=f"a red house {number}",
            seed=1,
            steps=STEPS,
            width=64,
            height=64,
            out=str(tmp_path / f"{number}.png"),
            how=How(residency={"transformer": "streamed"}, formats={"text_encoder_2": "F32", "transformer": "F32"}),
            loras=wanted,
        )
        for number, wanted in enumerate(asked)
    ]
    queued = painter("starter").engine
    for request in requests:
        queued.submit(request)
    seen: list[Event] = []
    pixels = {}
    while len(pixels) < len(requests):
        result = wait_for(queued, Finished, seen=seen).result
        pixels[result.prompt] = result.pixels_sha256
    alone_engine = painter("starter").engine
    for request in requests:
        alone_engine.submit(request)
        assert result_of(alone_engine, request.id).pixels_sha256 == pixels[request.prompt]
