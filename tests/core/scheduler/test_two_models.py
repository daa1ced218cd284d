"""Two models on a card that holds one and a half: one makes room for the other as far as it must, and plans say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from diffusers import FluxTransformer2DModel

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.machine import detect
from core.library.queue import JobQueue
from core.messages import Event, Finished, How, LedgerRecord, Planned, Request, Result
from core.planning import hosting
from core.plans import Phase, Plan
from tests.cards import emulated
from tests.events import wait_for
from tests.tiny_models import make

MIB = 2**20
CONFIG = {
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 16,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (8, 12, 12),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two Fluxes whose transformers have 160 MB in F32 each."""
    folders = []
    for name in ("first", "second"):
        folder = make("flux", tmp_path_factory.mktemp("models") / name)
        FluxTransformer2DModel(**CONFIG).half().save_pretrained(folder / "transformer")
        folders.append(str(folder))
    return folders


@pytest.fixture
def start(home: Path) -> Iterator[Callable[[int], Client]]:
    started: list[tuple[Client, EmulatedAccelerator]] = []

    def begin(mebibytes: int) -> Client:
        card = emulated(title="Card for one and a half", memory_bytes=mebibytes * MIB, pinned_rate=8e9)
        engine = InProcessEngine(JobQueue(None), accelerator=card)
        engine.start()
        started.append((engine, card))
        return engine

    yield begin
    for engine, card in started:
        engine.close()
        card.close()


def picture(engine: Client, model: str, *, fold: bool = False) -> tuple[Result, Plan, list[LedgerRecord]]:
    how = How(formats={"transformer": "F32"}, fold=fold)
    size = {"width": 64, "height": 64, "steps": 1}
    engine.submit(Request(prompt="a red house", model=model, seed=1, draft=True, how=how, **size))
    seen: list[Event] = []
    result = wait_for(engine, Finished, seen=seen).result
    plan = next(event.plan for event in seen if isinstance(event, Planned))
    return result, plan, [event for event in seen if isinstance(event, LedgerRecord)]


def test_other_models_leave_only_as_far_as_needed(start: Callable[[int], Client], models: list[str]) -> None:
    engine = start(340)
    alone, _, arrived = picture(engine, models[0])
    whole = sum(record.change for record in arrived if record.component == "transformer")
    assert whole > 150 * MIB
    _, plan, records = picture(engine, models[1])
    gone = [record for record in records if record.change < 0 and record.model == "first"]
    assert 0 < -sum(record.change for record in gone) < whole
    assert all(record.reason.startswith("made room for the phase: bringing ") for record in gone)
    assert any("of first makes room, being worth least" in reason for reason in plan.reasons)
    assert any("of other models stay on the device" in reason for reason in plan.reasons)
    again, _, records = picture(engine, models[0])
    assert again.pixels_sha256 == alone.pixels_sha256
    came = sum(record.change for record in records if record.model == "first" and record.change > 0)
    assert came < whole  # a part had stayed


def test_where_both_fit_nothing_leaves(start: Callable[[int], Client], models: list[str]) -> None:
    engine = start(640)
    for model in models:
        _, plan, records = picture(engine, model)
        assert not [record for record in records if record.change < 0 and record.component == "transformer"]
        assert not any("makes room" in reason for reason in plan.reasons)
    result, _, records = picture(engine, models[0])
    assert not [record for record in records if record.component == "transformer"]
    assert result.link_bytes < MIB


def test_another_way_to_hold_a_model_is_a_reload_that_the_plan_counts(
    start: Callable[[int], Client], models: list[str]
) -> None:
    engine = start(210)  # with its modulation the transformer and its activations would just not fit
    _, first, records = picture(engine, models[0], fold=True)
    folded = first.component("transformer").folded_bytes > 0
    assert folded
    assert all(record.folded for record in records if record.component == "transformer")
    result, plan, records = picture(engine, models[0])
    assert any("the transformer is brought anew, as F32, with its modulation" in reason for reason in plan.reasons)
    size = plan.component("transformer").bytes
    assert plan.link_bytes >= size
    assert result.link_bytes >= size
    again, plan, _ = picture(engine, models[0])
    assert not any("brought anew" in reason for reason in plan.reasons)
    assert again.link_bytes < result.link_bytes


def test_where_host_memory_is_short_pixels_are_the_same(
    start: Callable[[int], Client], models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy, plan, _ = picture(start(130), models[0])
    assert not plan.hosted
    room = 60 * MIB
    monkeypatch.setattr(hosting, "HOST_RESERVE_BYTES", detect().memory_bytes - room)
    engine = start(130)
    for _ in range(2):
        short, plan, _ = picture(engine, models[0])
        assert short.pixels_sha256 == roomy.pixels_sha256
        assert sum(plan.hosted.values()) == room
        streamed = sum(phase.streamed_bytes for phase in plan.phases if phase.phase is Phase.DENOISE)
        assert 0 < plan.hosted["transformer"] < streamed + room
        assert any(reason.startswith("host memory takes ") for reason in plan.reasons)
