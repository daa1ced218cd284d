"""The names that a file for a whole model has: diffusers' own conversions read them back into the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs

from core.generation.skeletons import skeleton
from core.models.layouts import PLAIN, Arrangement, arrange, places, present

Tiny = Callable[[str], Path]
Numbers = dict[str, torch.Tensor]


def numbered(shapes: dict[str, tuple[int, ...]]) -> Numbers:
    """Tensors of one column, in which every row is another number."""
    result, at = {}, 0
    for name, shape in shapes.items():
        rows = shape[0] if shape else 1
        result[name] = torch.arange(at, at + rows).reshape(rows, *([1] * (len(shape) - 1)))
        at += rows
    return result


def in_file(arrangement: Arrangement, tensors: Numbers) -> Numbers:
    """What a file in this arrangement holds."""
    found = {}
    for entry in arrangement.tensors:
        joined = torch.cat([tensors[part.name][part.first : part.first + part.count] for part in entry.parts])
        found[entry.name] = joined.reshape(joined.shape[0], *([1] * (len(entry.shape) - 1)))
    return found


def shapes_of(class_name: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    module = skeleton("diffusers", class_name, config)
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


FLUX = {
    "num_layers": 2,
    "num_single_layers": 2,
    "guidance_embeds": True,
}  # the width that diffusers' conversion expects
SD3 = {"num_layers": 3, "qk_norm": "rms_norm", "dual_attention_layers": (0, 1), "pos_embed_max_size": 8}


@pytest.mark.parametrize(
    ("family", "class_name", "config", "convert"),
    [
        ("FluxPipeline", "FluxTransformer2DModel", FLUX, theirs.convert_flux_transformer_checkpoint_to_diffusers),
        (
            "StableDiffusion3Pipeline",
            "SD3Transformer2DModel",
            SD3,
            theirs.convert_sd3_transformer_checkpoint_to_diffusers,
        ),
    ],
)
def test_diffusers_reads_transformers_back(
    family: str, class_name: str, config: dict[str, Any], convert: Callable[[Numbers], Numbers]
) -> None:
    shapes = shapes_of(class_name, config)
    tensors = numbered(shapes)
    arrangement = arrange(family, "transformer", class_name, shapes)
    assert arrangement.layout != PLAIN
    file = in_file(arrangement, tensors)
    assert all(name.startswith("model.diffusion_model.") for name in file)
    back = convert(dict(file))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_diffusers_reads_unets_and_vaes_back(tiny: Tiny) -> None:
    for component, class_name in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL")):
        config = json.loads((tiny("sdxl") / component / "config.json").read_text())
        _read_back(component, class_name, config)


def test_the_numbers_of_blocks_are_those_of_sdxl() -> None:
    config = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64, 128),
        "transformer_layers_per_block": (1, 2, 3),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
        "use_linear_projection": True,
        "cross_attention_dim": 16,
    }
    names = _read_back("unet", "UNet2DConditionModel", config)
    # of stabilityai/stable-diffusion-xl-base-1.0, sd_xl_base_1.0.safetensors
    for name in (
        "input_blocks.3.0.op.weight",
        "input_blocks.8.1.transformer_blocks.2.attn2.to_k.weight",
        "middle_block.1.proj_in.weight",
        "output_blocks.2.2.conv.weight",
        "output_blocks.8.0.skip_connection.weight",
        "label_emb.0.0.weight",
    ):
        assert f"model.diffusion_model.{name}" in names


def _read_back(component: str, class_name: str, config: dict[str, Any]) -> set[str]:
    shapes = shapes_of(class_name, config)
    tensors = numbered(shapes)
    arrangement = arrange("StableDiffusionXLPipeline", component, class_name, shapes)
    assert arrangement.layout != PLAIN
    file = in_file(arrangement, tensors)
    if component == "vae":
        assert file["vae.decoder.mid.attn_1.q.weight"].dim() == 4
        renamed = {name.replace("vae.", "first_stage_model.", 1): tensor for name, tensor in file.items()}
        back = theirs.convert_ldm_vae_checkpoint(renamed, config)
    else:
        back = theirs.convert_ldm_unet_checkpoint(
            dict(file), {"class_embed_type": None, "layers_per_block": 2, **config}
        )
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name].reshape(-1), tensors[name].reshape(-1)) for name in tensors)
    return set(file)


@pytest.mark.parametrize("family", ["flux", "sd3", "sdxl", "z_image", "qwen_image"])
def test_places_say_where_every_tensor_is(tiny: Tiny, family: str) -> None:
    index = json.loads((tiny(family) / "model_index.json").read_text())
    for component, entry in index.items():
        if not (tiny(family) / component / "config.json").is_file() or component == "scheduler":
            continue
        module = skeleton(entry[0], entry[1], json.loads((tiny(family) / component / "config.json").read_text()))
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        tensors = numbered(shapes)
        arrangement = arrange(index["_class_name"], component, entry[1], shapes)
        file = in_file(arrangement, tensors)
        found = places(arrangement.tensors, shapes)
        assert found.keys() == tensors.keys()
        for name, place in found.items():
            rows = torch.cat([file[owner][first : first + count].reshape(-1) for owner, first, count in place.rows])
            assert torch.equal(rows, tensors[name].reshape(-1))
            assert place.shape == shapes[name]


def test_a_component_that_no_table_knows_keeps_its_names() -> None:
    shapes = {"transformer_blocks.0.attn.to_q.weight": (4, 4), "something.new": (4,)}
    found = arrange("FluxPipeline", "transformer", "FluxTransformer2DModel", shapes)
    assert found.layout == PLAIN
    assert [entry.name for entry in found.tensors] == [f"transformer.{name}" for name in shapes]
    assert present("mid_block.attentions.0.query.weight", "AutoencoderKL") == "mid_block.attentions.0.to_q.weight"
