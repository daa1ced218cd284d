"""Lets a VAE decode in tiles, as the plan says: diffusers' own tiling, with the plan's size."""

from __future__ import annotations

from typing import Any

from torch import nn

from core.messages import UserError

_OVERLAP = 0.25  # diffusers' default, which plans reckon with (core.planning.demand.TILE_OVERLAP)


def set_tiles(vae: nn.Module, edge: int | None) -> None:
    """Decode in square tiles of `edge` latent positions, or whole where it is None.

    Raises:
        UserError: this VAE cannot.
    """
    network: Any = vae
    if edge is None:
        if hasattr(network, "use_tiling"):
            network.use_tiling = False
        return
    pixels = edge * _scale(network)
    if hasattr(network, "tile_latent_min_size"):  # AutoencoderKL and those made after it
        network.use_tiling = True
        network.tile_latent_min_size, network.tile_sample_min_size = edge, pixels
        network.tile_overlap_factor = _OVERLAP
    elif hasattr(network, "tile_sample_stride_height"):  # Qwen-Image, Wan, LTX
        stride = round(pixels * (1 - _OVERLAP))
        network.enable_tiling(
            tile_sample_min_height=pixels,
            tile_sample_min_width=pixels,
            tile_sample_stride_height=stride,
            tile_sample_stride_width=stride,
        )
    else:
        raise UserError(f"A {type(vae).__name__} cannot decode in tiles; choose a smaller size or --tile off.")


def _scale(vae: Any) -> int:
    """Pixels of an edge for each latent position."""
    known = getattr(vae, "spatial_compression_ratio", None)
    return int(known) if known else 2 ** (len(vae.config.block_out_channels) - 1)
