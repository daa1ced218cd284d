"""Blocks are the repeated layers, once each, in the order in which they run."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import T5Config, T5EncoderModel

from core.residency.blocks import blocks


def test_a_transformer_s_blocks_are_its_layers() -> None:
    with torch.device("meta"):
        flux = FluxTransformer2DModel(
            num_layers=2,
            num_single_layers=3,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            axes_dims_rope=(4, 4, 8),
        )
        t5 = T5EncoderModel(T5Config(vocab_size=10, d_model=16, d_kv=8, d_ff=16, num_layers=4, num_heads=2))
    assert list(blocks(flux)) == [*flux.transformer_blocks, *flux.single_transformer_blocks]
    assert len(list(blocks(t5))) == 4


def test_a_unet_s_stages_are_cut_into_what_they_run_one_after_another() -> None:
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 3),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    found = list(blocks(unet))
    assert len(found) == len({id(block) for block in found})
    ran: list[nn.Module] = []
    for block in found:
        block.register_forward_pre_hook(lambda module, _: ran.append(module))
    unet(torch.randn(1, 4, 16, 16), 1, torch.randn(1, 5, 32))
    assert ran == found
    whole = sum(p.numel() for p in unet.parameters())
    assert sum(p.numel() for block in found for p in block.parameters()) > 0.8 * whole
    assert max(sum(p.numel() for p in block.parameters()) for block in found) < 0.2 * whole


def test_an_autoencoder_s_blocks_run_in_their_order() -> None:
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    ran: list[nn.Module] = []
    for block in blocks(vae.decoder):
        block.register_forward_pre_hook(lambda module, _: ran.append(module))
    vae.decode(torch.randn(1, 4, 8, 8))
    assert ran == list(blocks(vae.decoder))
