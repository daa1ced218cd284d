"""The starter's autoencoder: its shape, its training loss and its figures.

Pictures are f32 tensors [B, 3, H, W] in -1..1; latents are [B, 16, H / 8, W / 8]. The transformer works on
(latents - shift) * scale, diffusers' convention for Flux, which has zero mean and unit variance over the data.
"""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as functional
from diffusers import AutoencoderKL
from draw import draw
from PIL import Image
from scene import random_scene

CHANNELS = 16
WIDTHS = (16, 32, 64, 96)


def build_vae() -> AutoencoderKL:
    """An untrained autoencoder of the starter's shape (f8, 16 latent channels, about 1.7 million parameters)."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def to_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """PIL pictures of one size to f32 [B, 3, H, W] in -1..1."""
    array = np.stack([np.asarray(p, dtype=np.uint8) for p in pictures])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def random_pictures(rng: random.Random, count: int, size: int = 128) -> torch.Tensor:
    """Freshly drawn pictures of scenes with nothing held out: f32 [count, 3, size, size] in -1..1."""
    return to_tensor([draw(random_scene(rng), size) for _ in range(count)])


def gradient_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical neighbours' differences: what keeps edges sharp."""
    d = a - b
    return (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()


def reconstruction_loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 plus gradient loss plus a squared term: the last is what PSNR counts, the first two keep it crisp."""
    return (out - target).abs().mean() + 0.5 * gradient_loss(out, target) + functional.mse_loss(out, target)


def psnr(out: torch.Tensor, target: torch.Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB, for pictures in -1..1 clamped as when saved."""
    error = ((out.clamp(-1, 1) - target) / 2).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return float((-10 * torch.log10(error)).mean())
