"""Any diffusers folder of a family with modular blocks runs, and gives the stock pipeline's pixels."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
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
STOCK_ARGUMENTS: dict[str, dict[str, Any]] = {
    "flux": {"guidance_scale": 3.5},
    "sdxl": {"guidance_scale": 5.0},
    "sd3": {"guidance_scale": 5.0},
    "z_image": {"guidance_scale": 5.0},
    "qwen_image": {"true_cfg_scale": 4.0},
    "flux2": {"guidance_scale": 4.0},
    "flux2_klein": {},  # distilled: nothing guides it
    "wan": {"guidance_scale": 5.0, "num_frames": 5},
    "wan22": {"guidance_scale": 4.0, "num_frames": 5},
    "ltx": {"guidance_scale": 3.0, "num_frames": 1},  # whose stills can be compared although it is of those below
}
GUIDANCE = {
    family: arguments.get("guidance_scale", arguments.get("true_cfg_scale"))
    for family, arguments in STOCK_ARGUMENTS.items()
}
HEIGHTS = {"ltx": 32}  # which multiples of 32 only have
FPS = {"wan": 16.0, "wan22": 16.0, "ltx": 25.0}


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
BATCHED = ("sdxl", "sd3", "z_image", "ltx")
WITHOUT_NEGATIVE = ("flux", "flux2", "flux2_klein")


def stock_frames(folder: Path, **arguments: object) -> list[Image.Image]:
    """The picture, or the frames of the clip, that the library's own pipeline makes."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(generator=torch.Generator("cpu").manual_seed(7), output_type="pil", **arguments)
    images: list[Image.Image] = made.frames[0] if hasattr(made, "frames") else made.images[:1]
    return [image.convert("RGB") for image in images]


def shown(file: Path) -> list[Image.Image]:
    """The frames of a picture or clip as its file has them."""
    if file.suffix == ".png":
        with Image.open(file) as image:
            return [image.copy()]
    with av.open(str(file)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


@pytest.mark.parametrize("negative", ["", "blurry"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_the_stock_pixels(
    family: str, negative: str, tiny: Callable[[str], Path], engine: Client, tmp_path: Path
) -> None:
    frames = STOCK_ARGUMENTS[family].get("num_frames")
    out = tmp_path / ("a.mp4" if (frames or 1) > 1 else "a.png")
    request = Request(
        prompt=PROMPT,
        model=str(tiny(family)),
        seed=7,
        steps=3,
        guidance=GUIDANCE[family],
        width=64,
        height=HEIGHTS.get(family, 48),
        frames=frames,
        out=str(out),
        negative_prompt=negative,
    )
    seen: list[Event] = []
    engine.submit(request)
    result = result_of(engine, request.id, seen=seen)

    pictures = shown(out)
    assert [image.size for image in pictures] == [(64, request.height)] * (frames or 1)
    if out.suffix == ".png":
        assert hashlib.sha256(pictures[0].tobytes()).hexdigest() == result.pixels_sha256
    assert (result.frames, result.fps) == (frames or 1, FPS.get(family))
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

    arguments: dict[str, object] = {"prompt": PROMPT, "num_inference_steps": 3, "width": 64, "height": request.height}
    arguments |= STOCK_ARGUMENTS[family]
    if family not in WITHOUT_NEGATIVE and negative:
        arguments["negative_prompt"] = negative
    stock = stock_frames(tiny(family), **arguments)
    if family in BATCHED:
        difference = np.abs(np.asarray(pictures[0]).astype(int) - np.asarray(stock[0]).astype(int))
        assert difference.max() <= 1
        assert np.count_nonzero(difference) <= 5
    else:
        assert result.pixels_sha256 == pixels_sha256(*stock)


def test_a_clip_of_ltx_gives_the_stock_pixels(tiny: Callable[[str], Path], engine: Client, tmp_path: Path) -> None:
    """Unguided, so that the stock pipeline makes no batch of two."""
    request = Request(
        prompt=PROMPT,
        model=str(tiny("ltx")),
        seed=7,
        steps=2,
        guidance=1.0,
        width=64,
        height=32,
        frames=17,
        out=str(tmp_path / "a.mp4"),
    )
    engine.submit(request)
    result = result_of(engine, request.id)
    stock = stock_frames(
        tiny("ltx"), prompt=PROMPT, num_inference_steps=2, guidance_scale=1.0, width=64, height=32, num_frames=17
    )
    assert len(stock) == result.frames == len(shown(Path(request.out)))
    assert result.pixels_sha256 == pixels_sha256(*stock)


def test_both_experts_are_guided_as_asked_for_or_each_by_its_own(
    tiny: Callable[[str], Path], engine: Client, tmp_path: Path
) -> None:
    """Of two experts each has a guider with a scale of its own, unless the request says one for both."""
    stock = partial(
        stock_frames, tiny("wan22"), prompt=PROMPT, num_inference_steps=2, width=32, height=32, num_frames=1
    )
    hashes = {}
    for scale in (None, 3.0):
        request = Request(
            prompt=PROMPT,
            model=str(tiny("wan22")),
            seed=7,
            steps=2,
            guidance=scale,
            width=32,
            height=32,
            frames=1,
            out=str(tmp_path / f"{scale}.png"),
        )
        engine.submit(request)
        hashes[scale] = result_of(engine, request.id).pixels_sha256
    assert hashes[3.0] == pixels_sha256(*stock(guidance_scale=3.0))
    assert hashes[None] == pixels_sha256(*stock(guidance_scale=5.0, guidance_scale_2=3.0))


def test_a_clip_of_wan_22s_small_model_has_the_size_that_was_asked_for(
    tiny: Callable[[str], Path], engine: Client, tmp_path: Path
) -> None:
    """Its VAE compresses twice as much as its stages say, and the stock pipeline times every token by itself."""
    asked = {"width": 64, "height": 96}
    request = Request(
        prompt=PROMPT,
        model=str(tiny("wan22_5b")),
        seed=7,
        steps=2,
        guidance=5.0,
        frames=1,
        out=str(tmp_path / "a.png"),
        **asked,
    )
    engine.submit(request)
    result = result_of(engine, request.id)
    assert (result.width, result.height, result.fps) == (64, 96, 24)
    (stock,) = stock_frames(
        tiny("wan22_5b"), prompt=PROMPT, num_inference_steps=2, guidance_scale=5.0, num_frames=1, **asked
    )
    difference = np.abs(np.asarray(shown(Path(request.out))[0]).astype(int) - np.asarray(stock).astype(int))
    assert difference.max() <= 1


def test_flux2_reads_its_prompt_without_the_processor_of_pictures(
    tiny: Callable[[str], Path], engine: Client, tmp_path: Path
) -> None:
    """The published model's tokenizer is inside of a processor that needs torchvision."""
    folder = Path(shutil.copytree(tiny("flux2"), tmp_path / "flux2"))
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "tokenizer" / "processor_config.json").write_text(
        json.dumps({"processor_class": "PixtralProcessor", "patch_size": 14, "image_token": "[IMG]"})
    )
    (folder / "tokenizer" / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "PixtralImageProcessor", "processor_class": "PixtralProcessor"})
    )
    hashes = set()
    for model in (tiny("flux2"), folder):
        request = Request(prompt=PROMPT, model=str(model), seed=7, steps=1, width=32, height=32, draft=True)
        engine.submit(request)
        hashes.add(result_of(engine, request.id).pixels_sha256)
    assert len(hashes) == 1


def test_the_starter_gives_the_stock_pixels(engine: Client) -> None:
    request = Request(prompt="a red house by the sea at sunset", seed=7, draft=True, steps=4)
    engine.submit(request)
    result = result_of(engine, request.id)
    stock = stock_frames(
        resource("starter", "model"),
        prompt=request.prompt,
        num_inference_steps=4,
        width=result.width,
        height=result.height,
        guidance_scale=0.0,
        max_sequence_length=64,
    )
    assert result.pixels_sha256 == pixels_sha256(*stock)


def test_words_change_the_starters_picture(engine: Client) -> None:
    hashes = set()
    for words in ("a red house by the sea at sunset", "a blue boat in the desert at night"):
        request = Request(prompt=words, seed=7, draft=True)
        engine.submit(request)
        hashes.add(result_of(engine, request.id).pixels_sha256)
    assert len(hashes) == 2
