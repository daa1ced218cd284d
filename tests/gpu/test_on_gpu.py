"""On a real card: the stock pipeline's pixels in the same dtype, and a ledger that agrees with torch's allocator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from core.engine import InProcessEngine
from core.engine.client import Client
from core.hardware.accelerator import choose
from core.messages import LedgerRecord, Request
from tests.events import result_of
from tests.tiny_models import CLIPS, FAMILIES, make

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def engine() -> Iterator[Client]:
    engine = InProcessEngine(accelerator="auto")
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return lambda family: make(family, tmp_path_factory.mktemp("models") / family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_stock_pixels_on_the_card(
    family: str, tiny: Callable[[str], Path], engine: Client, tmp_path: Path
) -> None:
    folder, accelerator = tiny(family), choose()
    request = Request(prompt="a red house", model=str(folder), seed=7, steps=3, width=64, height=64, draft=True)
    engine.submit(request)
    result = result_of(engine, request.id)
    assert result.accelerator == accelerator.kind

    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=accelerator.compute_dtype).to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"prompt": "a red house", "num_inference_steps": 3, "width": 64, "height": 64, "output_type": "pil"}
    if family == "z_image":
        arguments["guidance_scale"] = 0
    if family in CLIPS:
        arguments["num_frames"] = 1  # as a draft of a clip has
    if family == "wan22":
        arguments["guidance_scale_2"] = 3.0  # the modular pipeline's own for the second expert
    made = pipeline(generator=torch.Generator("cpu").manual_seed(7), **arguments)
    image = made.frames[0][0] if family in CLIPS else made.images[0]
    assert hashlib.sha256(image.convert("RGB").tobytes()).hexdigest() == result.pixels_sha256


def test_the_ledger_agrees_with_the_allocator(tiny: Callable[[str], Path], engine: Client) -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    seen: list[object] = []
    request = Request(prompt="a", model=str(tiny("sd3")), steps=1, width=64, height=64, draft=True)
    engine.submit(request)
    result = result_of(engine, request.id, seen=seen)  # type: ignore[arg-type]
    arrived = sum(record.change for record in seen if isinstance(record, LedgerRecord))
    assert arrived == result.link_bytes
    # the allocator rounds each tensor up to 512 bytes (PyTorch, c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)
    assert arrived <= torch.cuda.memory_allocated() - before <= arrived * 1.6
