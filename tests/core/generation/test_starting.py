"""Starting from a picture: the stock image-to-image pipelines' pixels, and its way through the phases."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForImage2Image
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image, ImageDraw

from core.engine import InProcessEngine
from core.engine.client import Client
from core.library import metadata, pictures
from core.messages import (
    ErrorKind,
    Event,
    Failed,
    Finished,
    How,
    Init,
    Phase,
    Planned,
    Preview,
    Progress,
    Request,
    Result,
)
from core.models import starting
from tests.events import result_of, wait_for

PROMPT = "a red house by the sea"
STOCK_ARGUMENTS: dict[str, dict[str, Any]] = {
    "flux": {"guidance_scale": 3.5},
    "sdxl": {"guidance_scale": 5.0},
    "sd3": {"guidance_scale": 5.0},
    "z_image": {"guidance_scale": 5.0},
    "qwen_image": {"true_cfg_scale": 4.0, "negative_prompt": "blurry"},
}
# as in test_families: the stock pipelines run the guided and the unguided pass as one batch of two
BATCHED = ("sdxl", "sd3", "z_image")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIDENCY_HOME", str(tmp_path_factory.mktemp("home")))
        engine = InProcessEngine(accelerator="cpu")
        engine.start()
        yield engine
        engine.close()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 64 x 48 pixels with a few shapes."""
    image = Image.new("RGB", (64, 48), (90, 150, 220))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 30, 64, 48), fill=(60, 140, 60))
    draw.ellipse((40, 4, 56, 20), fill=(250, 220, 60))
    file = tmp_path_factory.mktemp("pictures") / "from.png"
    image.save(file)
    return file


def stock(folder: Path, picture: Path, **arguments: object) -> Image.Image:
    """The picture that the library's own image-to-image pipeline makes."""
    pipeline = AutoPipelineForImage2Image.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    with Image.open(picture) as image:
        made = pipeline(
            image=image.convert("RGB"), generator=torch.Generator("cpu").manual_seed(7), output_type="pil", **arguments
        )
    first: Image.Image = made.images[0]
    return first.convert("RGB")


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("family", STOCK_ARGUMENTS)
def test_a_family_gives_the_stock_pixels(
    family: str,
    strength: float,
    tiny: Callable[[str], Path],
    engine: Client,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = STOCK_ARGUMENTS[family]
    if family == "qwen_image":  # its modular blocks take the middle of what the VAE says, where the stock one draws
        monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    out = tmp_path / "a.png"
    request = Request(
        prompt=PROMPT,
        negative_prompt=arguments.get("negative_prompt", ""),
        model=str(tiny(family)),
        seed=7,
        steps=4,
        guidance=arguments.get("guidance_scale", arguments.get("true_cfg_scale")),
        init=Init(str(picture), strength),
        out=str(out),
    )
    engine.submit(request)
    result = result_of(engine, request.id)
    assert (result.width, result.height) == (64, 48)
    assert (result.steps, result.made_steps) == (4, round(4 * strength))

    takes = inspect.signature(AutoPipelineForImage2Image.from_pretrained(tiny(family)).__call__).parameters
    size = {"width": 64, "height": 48} if "width" in takes else {}
    expected = stock(
        tiny(family), picture, prompt=PROMPT, strength=strength, num_inference_steps=4, **arguments, **size
    )
    with Image.open(out) as made:
        difference = np.abs(np.asarray(made, int) - np.asarray(expected, int))
    assert difference.max() <= (1 if family in BATCHED else 0)


# -- the way through the phases ---------------------------------------------------------------------------------------


def starter(picture: Path, strength: float | None = 0.5, **asked: Any) -> Request:
    return Request(**{"prompt": PROMPT, "seed": 3, "steps": 4, "init": Init(str(picture), strength), **asked})


def made(engine: Client, request: Request) -> tuple[Result, list[Event]]:
    seen: list[Event] = []
    engine.submit(request)
    return result_of(engine, request.id, seen=seen), seen


def test_it_is_planned_and_told_phase_by_phase(engine: Client, picture: Path, tmp_path: Path) -> None:
    result, seen = made(engine, starter(picture, out=str(tmp_path / "a.png")))
    plan = next(event.plan for event in seen if isinstance(event, Planned))
    assert [phase.label for phase in plan.phases] == ["encode", "image encode", "denoise", "decode"]
    assert [p.component for p in plan.phases[1].placements] == ["vae"]
    assert plan.phases[2].steps == plan.phases[2].passes == 2
    progress = [event for event in seen if isinstance(event, Progress)]
    phases = [phase for phase in dict.fromkeys(event.phase for event in progress) if phase is not Phase.LOAD]
    assert phases == [Phase.ENCODE, Phase.IMAGE_ENCODE, Phase.DENOISE, Phase.DECODE, Phase.SAVE]
    steps = [(event.step, event.steps) for event in progress if event.phase is Phase.DENOISE]
    assert steps == [(0, 2), (1, 2), (2, 2)]
    assert result.seconds["image encode"] > 0
    assert result.init == Init(str(picture), 0.5, pictures.sha256_of(picture))
    assert result.made_steps == 2
    assert any("from.png" in reason and "2 of 4 steps" in reason for reason in result.reasons)


def test_its_file_says_what_it_was_made_from(engine: Client, picture: Path, tmp_path: Path) -> None:
    made(engine, starter(picture, out=str(tmp_path / "a.png")))
    known = metadata.read_result(tmp_path / "a.png")
    assert known is not None
    assert known.init == Init("from.png", 0.5, pictures.sha256_of(picture))  # where it lay is nobody's business
    assert known.request().init == known.init
    with Image.open(tmp_path / "a.png") as image:
        assert "Denoising strength: 0.5" in image.text["parameters"]  # type: ignore[attr-defined]
        assert str(picture.parent) not in str(image.text)  # type: ignore[attr-defined]


def test_a_little_strength_keeps_the_picture(engine: Client, picture: Path) -> None:
    kept, _ = pixels(engine, starter(picture, 0.02, steps=50, draft=True))
    changed, _ = pixels(engine, starter(picture, 1.0, steps=4, draft=True))
    with Image.open(picture) as image:
        original = np.asarray(image.convert("RGB"), int)
    assert np.abs(kept - original).mean() < 6
    assert np.abs(changed - original).mean() > 20


def pixels(engine: Client, request: Request) -> tuple[np.ndarray[Any, Any], Result]:
    engine.submit(request)
    event = wait_for(engine, Finished)
    shape = (event.result.height, event.result.width, 3)
    return np.frombuffer(event.pixels, np.uint8).reshape(shape).astype(int), event.result


def test_what_the_vae_made_of_it_is_remembered(engine: Client, picture: Path) -> None:
    first, _ = made(engine, starter(picture, seed=11, draft=True))
    again, seen = made(engine, starter(picture, seed=11, draft=True))
    assert again.pixels_sha256 == first.pixels_sha256
    assert again.seconds["image encode"] == 0.0
    plan = [event.plan for event in seen if isinstance(event, Planned)][-1]
    assert [phase.skipped for phase in plan.phases] == [True, True, False, False]
    other, _ = made(engine, starter(picture, seed=11, prompt="a blue boat by the sea", draft=True))
    assert other.seconds["image encode"] == 0.0  # nothing of it depends on the words
    fresh, _ = made(engine, starter(picture, seed=11, draft=True, how=How(cache=False)))
    assert fresh.pixels_sha256 == first.pixels_sha256
    assert fresh.seconds["image encode"] > 0


def test_other_content_under_the_same_name_is_another_picture(engine: Client, picture: Path, tmp_path: Path) -> None:
    file = tmp_path / "changing.png"
    file.write_bytes(picture.read_bytes())
    first, _ = made(engine, starter(file, draft=True))
    Image.new("RGB", (64, 48), "black").save(file)
    second, _ = made(engine, msgspec.structs.replace(first.request(), id="again", draft=True))
    assert second.pixels_sha256 != first.pixels_sha256
    assert any("changed" in reason for reason in second.reasons)


def test_previews_show_the_picture_that_comes(engine: Client, picture: Path) -> None:
    _, seen = made(engine, starter(picture, 0.5, steps=24, draft=True))
    previews = [event for event in seen if isinstance(event, Preview)]
    assert all(event.steps == 12 for event in previews)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init": Init("gone.png", 0.5)}, "gone.png is not there"),
        ({"init": Init(".", 0.5)}, "is a folder"),
        ({"init": Init(__file__, 0.5)}, "is no picture"),
        ({"strength": 0.0}, "strength of 0"),
        ({"strength": 1.5}, "strength of 1.5"),
        ({"strength": float("nan")}, "strength of nan"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(engine: Client, picture: Path, change: dict[str, Any], words: str) -> None:
    request = starter(picture, change.pop("strength", 0.5), draft=True, **change)
    engine.submit(request)
    failed = wait_for(engine, Failed)
    assert failed.kind is ErrorKind.USER
    assert words in failed.sentence
    assert "\n" not in failed.sentence


def test_a_family_that_cannot_says_who_can(engine: Client, tiny: Callable[[str], Path], picture: Path) -> None:
    engine.submit(starter(picture, model=str(tiny("wan")), draft=True))
    sentence = wait_for(engine, Failed).sentence
    assert "WanPipeline" in sentence
    assert "Flux, SDXL, SD3, Qwen-Image and Z-Image models can" in sentence


def test_the_table_says_what_the_library_says(tiny: Callable[[str], Path]) -> None:
    for family in STOCK_ARGUMENTS:
        pipeline = AutoPipelineForImage2Image.from_pretrained(tiny(family))
        index = json.loads((tiny(family) / "model_index.json").read_text())
        default = inspect.signature(pipeline.__call__).parameters["strength"].default
        assert starting.strength_of(index["_class_name"], None) == default
    assert len(STOCK_ARGUMENTS) == len(starting.families())
