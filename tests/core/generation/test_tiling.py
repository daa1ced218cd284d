"""Tiles are diffusers' own: the stock pipeline with the same tiles gives the same pixels, and the result says so."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline
from torch import nn

from core.engine import InProcessEngine
from core.engine.client import Client
from core.generation.tiling import set_tiles
from core.library.queue import JobQueue
from core.messages import How, Request, Result, UserError
from tests.events import result_of
from tests.tiny_models import make


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESIDENCY_HOME", str(tmp_path_factory.mktemp("home")))
        client = InProcessEngine(JobQueue(None), accelerator="cpu")
        client.start()
        yield client
        client.close()


def picture(engine: Client, model: Path, tile: str, scale: int = 1, guidance: float | None = None) -> Result:
    request = Request(
        prompt="a red house",
        model=str(model),
        seed=7,
        steps=2,
        guidance=guidance,
        width=96 * scale,
        height=64 * scale,
        draft=True,
        how=How(tile=tile),
    )
    engine.submit(request)
    return result_of(engine, request.id)


WORDS: dict[str, dict[str, Any]] = {
    "qwen_image": {"true_cfg_scale": 1.0},
    "wan": {"num_frames": 1, "output_type": "pil"},
    "ltx": {"num_frames": 1, "output_type": "pil", "guidance_scale": 1.0},
}


@pytest.mark.parametrize(
    ("family", "tiled"),
    [
        ("flux", lambda vae: vars(vae).update(use_tiling=True, tile_latent_min_size=4, tile_sample_min_size=32)),
        ("qwen_image", lambda vae: vae.enable_tiling(32, 32, 24, 24)),
        ("flux2", lambda vae: vars(vae).update(use_tiling=True, tile_latent_min_size=4, tile_sample_min_size=32)),
        ("wan", lambda vae: vae.enable_tiling(32, 32, 24, 24)),
        ("ltx", lambda vae: vae.enable_tiling(128, 128, tile_sample_stride_height=96, tile_sample_stride_width=96)),
    ],
)
def test_tiles_are_the_librarys(
    family: str, tiled: Callable[[nn.Module], None], engine: Client, tmp_path: Path
) -> None:
    model = make(family, tmp_path / family)
    # a latent position of LTX is 32 pixels wide; guided, its stock pipeline makes a batch of two
    edge, scale, guidance = ("128", 2, 1.0) if family == "ltx" else ("32", 1, None)
    whole, ours, again = (picture(engine, model, tile, scale, guidance) for tile in ("off", edge, "off"))
    assert (whole.tiling, ours.tiling) == ("off", edge)
    assert whole.pixels_sha256 == again.pixels_sha256

    pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    tiled(pipeline.vae)
    generator = torch.Generator("cpu").manual_seed(7)
    words: dict[str, Any] = WORDS.get(family, {})
    size = {"width": 96 * scale, "height": 64 * scale}
    made = pipeline(prompt="a red house", num_inference_steps=2, generator=generator, **size, **words)
    image = made.frames[0][0] if hasattr(made, "frames") else made.images[0]
    assert hashlib.sha256(image.convert("RGB").tobytes()).hexdigest() == ours.pixels_sha256 != whole.pixels_sha256


def test_a_network_without_tiles_says_so() -> None:
    with pytest.raises(UserError, match="cannot decode in tiles"):
        set_tiles(_Plain(), 8)
    set_tiles(_Plain(), None)


def test_tiles_of_a_clip() -> None:
    vae = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False])
    set_tiles(vae, 8)
    pixels = 8 * vae.spatial_compression_ratio
    assert vae.use_tiling
    assert (vae.tile_sample_min_height, vae.tile_sample_stride_width) == (pixels, pixels * 3 // 4)
    set_tiles(vae, None)
    assert not vae.use_tiling


class _Plain(nn.Module):
    spatial_compression_ratio = 8
