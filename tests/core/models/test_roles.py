"""Roles and order from names alone are those that the networks themselves give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from core.generation import layers as from_network
from core.generation.skeletons import persistent_tensors, skeleton
from core.models.roles import CLIP, DENOISER, ENCODER, block_of, kind_of, order_of, role_of
from core.residency.blocks import blocks

Tiny = Callable[[str], Path]
FAMILIES = ("flux", "sdxl", "sd3", "z_image", "qwen_image")


@pytest.mark.parametrize("family", FAMILIES)
def test_roles_and_blocks_are_the_networks_own(tiny: Tiny, family: str) -> None:
    folder = tiny(family)
    index = json.loads((folder / "model_index.json").read_text())
    for name, entry in index.items():
        config = folder / name / "config.json"
        if name == "vae" or not config.is_file():
            continue
        library, class_name = entry
        module = skeleton(library, class_name, json.loads(config.read_text()))
        kind = kind_of(name, class_name)
        prefixes = {id(part): prefix for prefix, part in module.named_modules()}
        inside = [f"{prefixes[id(block)]}." for block in blocks(module)]
        order = {}
        for path, tensor in persistent_tensors(module):
            owner = module.get_submodule(path.rpartition(".")[0])
            block = next((number for number, prefix in enumerate(inside) if path.startswith(prefix)), None)
            expected = from_network.role(
                class_name, path, tensor, owner, inside=block is not None, denoiser=kind == DENOISER
            )
            found = role_of(path, tuple(tensor.shape), kind)
            # a UNet's stages have layers between their blocks, which the name puts into the stage
            assert found == expected or (class_name.startswith("UNet") and expected == "io"), path
            if block is not None and found != "modulation":
                assert block_of(path, kind) is not None, path
                order[path] = block
        ordered = [order[path] for path in sorted(order, key=lambda path: order_of(path, kind))]
        assert ordered == sorted(ordered), name


@pytest.mark.parametrize(
    ("name", "shape", "kind", "role"),
    [
        ("double_blocks.3.img_mod.lin.weight", (9, 3), DENOISER, "modulation"),
        ("single_blocks.3.modulation.lin.bias", (9,), DENOISER, "modulation"),
        ("joint_blocks.3.x_block.adaLN_modulation.1.weight", (9, 3), DENOISER, "modulation"),
        ("final_layer.adaLN_modulation.1.weight", (9, 3), DENOISER, "modulation"),
        ("double_stream_modulation_img.lin.weight", (9, 3), DENOISER, "modulation"),
        ("double_blocks.3.img_attn.qkv.weight", (9, 3), DENOISER, "linear"),
        ("double_blocks.3.img_attn.norm.key_norm.scale", (9,), DENOISER, "keep"),
        ("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", (9, 3), DENOISER, "linear"),
        ("input_blocks.4.0.in_layers.2.weight", (9, 3, 3, 3), DENOISER, "conv"),
        ("time_embed.0.weight", (9, 3), DENOISER, "io"),
        ("pos_embed", (1, 9, 3), DENOISER, "keep"),
        ("blocks.3.modulation", (1, 6, 9), DENOISER, "keep"),
        ("x_pad_token", (1, 9), DENOISER, "keep"),
        ("token_embd.weight", (9, 3), ENCODER, "embedding"),
        ("enc.blk.0.attn_rel_b.weight", (9, 3), ENCODER, "keep"),
        ("enc.blk.0.attn_q.weight", (9, 3), ENCODER, "linear"),
        ("transformer.resblocks.3.attn.in_proj_weight", (9, 3), CLIP, "linear"),
    ],
)
def test_roles_of_other_names(name: str, shape: tuple[int, ...], kind: str, role: str) -> None:
    assert role_of(name, shape, kind) == role
