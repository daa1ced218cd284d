"""Calls of the denoiser that go through streamed blocks together: less crosses the link, pixels are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.calibrate import known
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.interface import Accelerator
from core.hardware.profile import HardwareProfile
from core.library.queue import JobQueue
from core.messages import Adapter, Cancelled, Event, Failed, Finished, How, Planned, Progress, Request, Result
from core.plans import Phase, PhasePlan, Plan
from core.scheduler import planner
from tests.cards import emulated
from tests.events import result_of, wait_for
from tests.tiny_loras import write as write_lora
from tests.tiny_models import make

MIB = 2**20


LINK = 20e6  # bytes/s: streaming always takes longer than computing


def slow_link() -> EmulatedAccelerator:
    return emulated(title="a card with a slow link", memory_bytes=512 * MIB, pinned_rate=LINK)


def known_link(accelerator: Accelerator) -> HardwareProfile:
    """What a calibration would find of the link."""
    return msgspec.structs.replace(known(accelerator), pinned_rate=LINK, pageable_rate=LINK / 2, staged_rate=LINK)


@pytest.fixture
def engine(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Client]]:
    monkeypatch.setattr(planner, "known", known_link)
    engines: list[Client] = []

    def new() -> Client:
        engines.append(InProcessEngine(JobQueue(None), accelerator=slow_link()))
        return engines[-1]

    yield new
    for client in engines:
        client.close()


def denoising(plan: Plan) -> PhasePlan:
    return next(phase for phase in plan.phases if phase.phase is Phase.DENOISE)


def picture(client: Client, request: Request) -> tuple[Result, PhasePlan]:
    seen: list[Event] = []
    client.submit(request)
    client.start()
    result = result_of(client, request.id, seen=seen)
    return result, denoising(next(event.plan for event in seen if isinstance(event, Planned)))


GUIDED = {"sdxl": "unet", "sd3": "transformer", "z_image": "transformer", "qwen_image": "transformer"}


@pytest.mark.parametrize(("family", "stored"), [*((family, "F32") for family in GUIDED), ("qwen_image", "Q8_0")])
@pytest.mark.parametrize("fold", [False, True])
def test_the_guided_and_the_unguided_pass_share_what_is_streamed(
    family: str, stored: str, fold: bool, engine: Callable[[], Client], tmp_path: Path
) -> None:
    denoiser = GUIDED[family]
    how = How(residency={denoiser: "streamed"}, formats={denoiser: stored}, fold=fold, cache=False)
    request = Request(
        prompt="a red house by the sea",
        negative_prompt="a boat",
        model=str(make(family, tmp_path / family)),
        guidance=4.0,
        steps=3,
        width=64,
        height=64,
        draft=True,
        how=how,
    )
    together, plan = picture(engine(), request)
    assert plan.lockstep == 2
    apart, plan = picture(engine(), msgspec.structs.replace(request, how=msgspec.structs.replace(how, lockstep=False)))
    assert plan.lockstep == 1
    assert together.pixels_sha256 == apart.pixels_sha256
    streamed = together.components[denoiser].streamed_bytes
    assert apart.components[denoiser].streamed_bytes == streamed > 0
    assert apart.link_bytes - together.link_bytes == 3 * streamed


SIZES = ((64, 64, 3), (96, 64, 2), (64, 64, 4), (64, 96, 3))  # width, height, steps


def queued(model: str, folder: Path, how: How) -> list[Request]:
    return [
        Request(
            id=f"number-{number}",
            prompt=f"a red house, {number}",
            model=model,
            seed=number,
            steps=steps,
            width=width,
            height=height,
            out=str(folder / f"{number}.png"),
            how=how,
        )
        for number, (width, height, steps) in enumerate(SIZES)
    ]


def run_all(client: Client, requests: Sequence[Request]) -> tuple[dict[str, Result], list[Event]]:
    """Queue all before the engine starts, so that the first of them finds the others waiting."""
    for request in requests:
        client.submit(request)
    client.start()
    seen: list[Event] = []
    results: dict[str, Result] = {}
    while len(results) < len(requests):
        event = wait_for(client, Finished, seen=seen)
        results[event.id] = event.result
    return results, seen


@pytest.mark.parametrize(
    ("stored", "fold", "lora"), [("F32", False, False), ("Q8_0", True, False), ("Q8_0", True, True)]
)
def test_queued_jobs_of_any_size_share_what_is_streamed(
    stored: str, fold: bool, lora: bool, engine: Callable[[], Client], tmp_path: Path
) -> None:
    model = str(make("flux", tmp_path / "flux"))
    how = How(residency={"transformer": "streamed"}, formats={"transformer": stored}, fold=fold, cache=False)
    apart = msgspec.structs.replace(how, lockstep=False)
    (tmp_path / "apart").mkdir()
    loras: tuple[Adapter, ...] = ()
    if lora:
        loras = (Adapter(str(write_lora(tmp_path / "a.safetensors", Path(model), ("transformer",)))),)
    together, alone = (
        [msgspec.structs.replace(request, loras=loras) for request in queued(model, folder, wanted)]
        for folder, wanted in ((tmp_path, how), (tmp_path / "apart", apart))
    )
    results, seen = run_all(engine(), together)
    one_by_one, _ = run_all(engine(), alone)
    plans = [event.plan for event in seen if isinstance(event, Planned)]
    assert plans[0].together > 1
    for name, result in results.items():
        assert result.pixels_sha256 == one_by_one[name].pixels_sha256
        assert Path(result.file).is_file()
    streamed = results["number-0"].components["transformer"].streamed_bytes
    saved = sum(r.link_bytes for r in one_by_one.values()) - sum(r.link_bytes for r in results.values())
    steps_together = [steps for _, _, steps in SIZES[: plans[0].together]]
    assert saved >= streamed * (sum(steps_together) - max(steps_together))
    # told of each: that it was begun, its steps, its end
    for number, (_, _, steps) in enumerate(SIZES):
        told = [e.step for e in seen if isinstance(e, Progress) and e.id == f"number-{number}" and e.phase == "denoise"]
        assert told == list(range(steps + 1))


def test_one_of_several_can_be_cancelled(engine: Callable[[], Client], tmp_path: Path) -> None:
    model = str(make("flux", tmp_path / "flux"))
    how = How(residency={"transformer": "streamed"}, formats={"transformer": "F32"})
    requests = [msgspec.structs.replace(request, steps=40) for request in queued(model, tmp_path, how)]
    client = engine()
    for request in requests:
        client.submit(request)
    client.start()
    seen: list[Event] = []
    while not (progress := wait_for(client, Progress, seen=seen)).step or progress.id != "number-1":
        pass
    assert any(isinstance(event, Planned) and event.plan.together > 1 for event in seen)
    client.cancel("number-1")
    assert wait_for(client, Cancelled, seen=seen).id == "number-1"
    ended = {wait_for(client, Finished, seen=seen).id for _ in range(3)}
    assert ended == {"number-0", "number-2", "number-3"}
    assert not any(isinstance(event, Failed) for event in seen)
    assert not (tmp_path / "1.png").exists()
    assert client.jobs.jobs() == []
