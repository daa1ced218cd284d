"""Tiles are diffusers' own: the stock pipeline with the same tiles gives the same pixels, and the result says so."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

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


def picture(engine: Client, model: Path, tile: str) -> Result:
    request = Request(
        prompt="a red house", model=str(model), seed=7, steps=2, width=96, height=64, draft=True, how=How(tile=tile)
    )
    engine.submit(request)
    return result_of(engine, request.id)


@pytest.mark.parametrize(
    ("family", "tiled"),
    [
        ("flux", lambda vae: vars(vae).update(use_tiling=True, tile_latent_min_size=4, tile_sample_min_size=32)),
        ("qwen_image", lambda vae: vae.enable_tiling(32, 32, 24, 24)),
    ],
)
def test_tiles_are_the_librarys(
    family: str, tiled: Callable[[nn.Module], None], engine: Client, tmp_path: Path
) -> None:
    model = make(family, tmp_path / family)
    whole, ours, again = (picture(engine, model, tile) for tile in ("off", "32", "off"))
    assert (whole.tiling, ours.tiling) == ("off", "32")
    assert whole.pixels_sha256 == again.pixels_sha256

    pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    tiled(pipeline.vae)
    generator = torch.Generator("cpu").manual_seed(7)
    words = {"true_cfg_scale": 1.0} if family == "qwen_image" else {}
    image = pipeline("a red house", num_inference_steps=2, width=96, height=64, generator=generator, **words).images[0]
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
