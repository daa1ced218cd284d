"""Any diffusers folder of a family with modular blocks runs, and gives the stock pipeline's pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from core.engine import InProcessEngine
from core.engine.client import Client
from core.generation.outputs import pixels_sha256
from core.library import metadata
from core.messages import Event, LedgerRecord, Phase, Preview, Progress, Request
from core.resources import resource
from tests.events import result_of
from tests.tiny_models import FAMILIES

PROMPT = "a red house by the sea"
# What each family's stock pipeline is asked for, so that both sides use the same guidance.
STOCK_ARGUMENTS: dict[str, dict[str, float]] = {
    "flux": {"guidance_scale": 3.5},
    "sdxl": {"guidance_scale": 5.0},
    "sd3": {"guidance_scale": 5.0},
    "z_image": {"guidance_scale": 5.0},
    "qwen_image": {"true_cfg_scale": 4.0},
}
GUIDANCE = {"flux": 3.5, "sdxl": 5.0, "sd3": 5.0, "z_image": 5.0, "qwen_image": 4.0}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        # its own folders, so that no encoding is known from elsewhere and every phase runs
        patch.setenv("RESIDENCY_HOME", str(tmp_path_factory.mktemp("home")))
        engine = InProcessEngine(accelerator="cpu")
        engine.start()
        yield engine
        engine.close()


# These pipelines run the guided and the unguided pass as one batch of two, which the modular blocks run one by one:
# not bit-equal in f32, so that a value on the edge between two levels may fall to either side.
BATCHED = ("sdxl", "sd3", "z_image")


def stock_picture(folder: Path, **arguments: object) -> Image.Image:
    """The picture that the library's own pipeline makes."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image: Image.Image = pipeline(generator=torch.Generator("cpu").manual_seed(7), **arguments).images[0]
    return image.convert("RGB")


@pytest.mark.parametrize("negative", ["", "blurry"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_stock_pixels(
    family: str, negative: str, tiny: Callable[[str], Path], engine: Client, tmp_path: Path
) -> None:
    out = tmp_path / "a.png"
    request = Request(
        prompt=PROMPT,
        model=str(tiny(family)),
        seed=7,
        steps=3,
        guidance=GUIDANCE[family],
        width=64,
        height=48,
        out=str(out),
        negative_prompt=negative,
    )
    seen: list[Event] = []
    engine.submit(request)
    result = result_of(engine, request.id, seen=seen)

    with Image.open(out) as image:
        assert image.size == (64, 48)
        assert hashlib.sha256(image.tobytes()).hexdigest() == result.pixels_sha256
    assert metadata.read_result(out) == result
    assert set(result.seconds) == {"load", "encode", "denoise", "decode", "total"}
    assert result.seconds["total"] >= sum(value for name, value in result.seconds.items() if name != "total")
    phases = list(dict.fromkeys(event.phase for event in seen if isinstance(event, Progress)))
    assert [phase for phase in phases if phase is not Phase.LOAD] == [
        Phase.ENCODE,
        Phase.DENOISE,
        Phase.DECODE,
        Phase.SAVE,
    ]
    steps = [event.step for event in seen if isinstance(event, Progress) and event.phase is Phase.DENOISE]
    # progress that nobody has read yet is replaced by newer
    assert steps == sorted(set(steps))
    assert set(steps) <= {0, 1, 2, 3}
    assert steps[-1] == 3
    previews = [event for event in seen if isinstance(event, Preview)]
    assert previews
    assert all(len(event.pixels) == 3 * event.width * event.height > 0 for event in previews)
    arrived = {event.component: event.change for event in seen if isinstance(event, LedgerRecord) and event.change > 0}
    if arrived:  # the second picture of a family finds everything warm
        assert arrived == {name: use.bytes for name, use in result.components.items()}
    assert result.predicted is not None
    # the prediction counts what phases compute with, too; buffers beside the weights are no more than a thousandth
    assert result.predicted.peak_device_bytes >= 0.999 * sum(use.bytes for use in result.components.values())

    arguments: dict[str, object] = {"prompt": PROMPT, "num_inference_steps": 3, "width": 64, "height": 48}
    arguments |= STOCK_ARGUMENTS[family]
    if family != "flux" and negative:
        arguments["negative_prompt"] = negative
    stock = stock_picture(tiny(family), **arguments)
    if family in BATCHED:
        with Image.open(out) as image:
            difference = np.abs(np.asarray(image).astype(int) - np.asarray(stock).astype(int))
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 5
    else:
        assert result.pixels_sha256 == pixels_sha256(stock)


def test_the_starter_gives_the_stock_pixels(engine: Client) -> None:
    request = Request(prompt="a red house by the sea at sunset", seed=7, draft=True, steps=4)
    engine.submit(request)
    result = result_of(engine, request.id)
    stock = stock_picture(
        resource("starter", "model"),
        prompt=request.prompt,
        num_inference_steps=4,
        width=result.width,
        height=result.height,
        guidance_scale=0.0,
        max_sequence_length=64,
    )
    assert result.pixels_sha256 == pixels_sha256(stock)


def test_words_change_the_starters_picture(engine: Client) -> None:
    hashes = set()
    for words in ("a red house by the sea at sunset", "a blue boat in the desert at night"):
        request = Request(prompt=words, seed=7, draft=True)
        engine.submit(request)
        hashes.add(result_of(engine, request.id).pixels_sha256)
    assert len(hashes) == 2
