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
from core.models.headers import read_safetensors
from core.models.layouts import PLAIN, Arrangement, arrange, places, present
from core.resources import resource

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
FLUX2 = {"num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2}
WAN = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 16, "ffn_dim": 32}


@pytest.mark.parametrize(
    ("family", "class_name", "config", "convert", "knows_prefix"),
    [
        ("FluxPipeline", "FluxTransformer2DModel", FLUX, "flux_transformer_checkpoint", True),
        ("StableDiffusion3Pipeline", "SD3Transformer2DModel", SD3, "sd3_transformer_checkpoint", True),
        ("ZImagePipeline", "ZImageTransformer2DModel", "z-image-turbo", "z_image_transformer_checkpoint", True),
        ("Flux2Pipeline", "Flux2Transformer2DModel", FLUX2, "flux2_transformer_checkpoint", False),
        ("Flux2KleinPipeline", "Flux2Transformer2DModel", "flux2-klein-4b", "flux2_transformer_checkpoint", False),
        ("WanPipeline", "WanTransformer3DModel", "wan22-5b", "wan_transformer", True),
        (
            "WanPipeline",
            "WanTransformer3DModel",
            {**WAN, "image_dim": 16, "added_kv_proj_dim": 32},
            "wan_transformer",
            True,
        ),
        ("LTXPipeline", "LTXVideoTransformer3DModel", "ltx-video", "ltx_transformer_checkpoint", True),
    ],
)
def test_diffusers_reads_transformers_back(
    family: str, class_name: str, config: dict[str, Any] | str, convert: str, knows_prefix: bool
) -> None:
    shapes = shapes_of(class_name, shipped(config, "transformer") if isinstance(config, str) else config)
    tensors = numbered(shapes)
    arrangement = arrange(family, "transformer", class_name, shapes)
    assert arrangement.layout != PLAIN
    file = in_file(arrangement, tensors)
    assert all(name.startswith("model.diffusion_model.") for name in file)
    if not knows_prefix:
        file = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in file.items()}
    assert_same(getattr(theirs, f"convert_{convert}_to_diffusers")(dict(file)), tensors)


def shipped(model: str, component: str) -> dict[str, Any]:
    """The config of a component of a model that is known here."""
    found: dict[str, Any] = json.loads(resource("models", "configs", model, f"{component}.json").read_text())
    return found.get("config", found)


def assert_same(back: Numbers, tensors: Numbers) -> None:
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name].reshape(-1), tensors[name].reshape(-1)) for name in tensors)


WAN_VAE = {"base_dim": 4, "z_dim": 4, "temperal_downsample": [False, True, True]}  # dim_mult and layers are Wan's own


@pytest.mark.parametrize("class_name", ["AutoencoderKLWan", "AutoencoderKLQwenImage"])
def test_diffusers_reads_wan_vaes_back(class_name: str) -> None:
    shapes = shapes_of(class_name, WAN_VAE)
    tensors = numbered(shapes)
    arrangement = arrange("WanPipeline", "vae", class_name, shapes)
    assert arrangement.layout == "wan-vae"
    file = {name.removeprefix("vae."): tensor for name, tensor in in_file(arrangement, tensors).items()}
    assert_same(theirs.convert_wan_vae_to_diffusers(file), tensors)


def test_the_names_of_wan_22s_vae() -> None:
    config = {**WAN_VAE, "decoder_base_dim": 4, "is_residual": True, "in_channels": 12, "out_channels": 12}
    shapes = shapes_of("AutoencoderKLWan", config | {"patch_size": 2})
    found = {entry.name: entry for entry in arrange("WanPipeline", "vae", "AutoencoderKLWan", shapes).tensors}
    # Wan-AI/Wan2.2-TI2V-5B, Wan2.2_VAE.pth: two layers on the way down and three on the way up, then the resampling
    for name, part in (
        ("encoder.downsamples.1.downsamples.0.shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
        ("encoder.downsamples.0.downsamples.2.resample.1.bias", "encoder.down_blocks.0.downsampler.resample.1.bias"),
        ("encoder.downsamples.2.downsamples.2.time_conv.weight", "encoder.down_blocks.2.downsampler.time_conv.weight"),
        ("decoder.upsamples.3.upsamples.2.residual.6.bias", "decoder.up_blocks.3.resnets.2.conv2.bias"),
        ("decoder.upsamples.0.upsamples.3.time_conv.weight", "decoder.up_blocks.0.upsampler.time_conv.weight"),
        ("decoder.middle.2.residual.3.gamma", "decoder.mid_block.resnets.1.norm2.gamma"),
        ("conv2.bias", "post_quant_conv.bias"),
    ):
        assert [entry.name for entry in found[f"vae.{name}"].parts] == [part]
    assert len(found) == len(shapes)


# The three forms of LTX-Video's VAE (diffusers, scripts/convert_ltx_to_diffusers.py, get_vae_config), narrower; the
# conversion tells the last by its width.
LTX_090 = {
    "block_out_channels": (4, 8, 16, 16),
    "decoder_block_out_channels": (4, 8, 16, 16),
    "layers_per_block": (2, 1, 1, 1, 2),
    "decoder_layers_per_block": (2, 1, 1, 1, 2),
}
LTX_091 = LTX_090 | {
    "decoder_block_out_channels": (8, 16, 32),
    "up_block_types": ("LTXVideoUpBlock3d",) * 3,
    "decoder_layers_per_block": (2, 1, 2, 1),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (True, True, True, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
}
LTX_095 = LTX_091 | {
    "block_out_channels": (2, 4, 8, 16, 2048),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "layers_per_block": (2, 1, 1, 1, 1),
    "spatio_temporal_scaling": (True, True, True, True),
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "decoder_inject_noise": (False, False, False, False),
}


@pytest.mark.parametrize("config", [LTX_090, LTX_091, LTX_095], ids=["0.9.0", "0.9.1", "0.9.5"])
def test_diffusers_reads_ltx_vaes_back(config: dict[str, Any]) -> None:
    shapes = shapes_of("AutoencoderKLLTXVideo", config)
    wide = {name: shape for name, shape in shapes.items() if name == "encoder.conv_out.conv.weight"}
    tensors = numbered(shapes)
    arrangement = arrange("LTXPipeline", "vae", "AutoencoderKLLTXVideo", shapes)
    assert arrangement.layout == "ltx-vae"
    file = in_file(arrangement, tensors)
    for name, shape in wide.items():  # the conversion tells the forms by its columns
        file[f"vae.{name}"] = tensors[name] = tensors[name].expand(shape[0], *shape[1:])
    assert "vae.per_channel_statistics.mean-of-means" in file
    assert_same(theirs.convert_ltx_vae_checkpoint_to_diffusers(dict(file)), tensors)


def test_the_parts_of_wan_22_and_of_text_encoders(tiny: Tiny) -> None:
    names = in_files_names(tiny("wan22"))
    assert "model.high_noise_diffusion_model.blocks.0.self_attn.q.weight" in names
    assert "model.diffusion_model.blocks.0.cross_attn.o.bias" in names
    assert "text_encoders.t5xxl.transformer.shared.weight" in names
    # what stable-diffusion.cpp's LLM reads, from what three classes call it
    for family in ("z_image", "qwen_image", "flux2"):
        names = in_files_names(tiny(family))
        assert {
            "text_encoders.llm.model.embed_tokens.weight",
            "text_encoders.llm.model.layers.1.self_attn.q_proj.weight",
            "text_encoders.llm.model.norm.weight",
        } <= names
        assert all(name.startswith(("model.diffusion_model.", "text_encoders.llm.", "vae.")) for name in names)


def in_files_names(folder: Path) -> set[str]:
    """The names in the file for a whole model."""
    index = json.loads((folder / "model_index.json").read_text())
    weights = {name: next((folder / name).glob("*.safetensors"), None) for name in index if not name.startswith("_")}
    beside = [name for name, file in weights.items() if file is not None]
    found: set[str] = set()
    for name in beside:
        shapes = {key: entry.shape for key, entry in read_safetensors(weights[name]).tensors.items()}  # type: ignore[arg-type]
        found |= {
            entry.name for entry in arrange(index["_class_name"], name, index[name][1], shapes, beside=beside).tensors
        }
    return found


def test_diffusers_reads_unets_and_vaes_back(tiny: Tiny) -> None:
    for family, component, class_name in (
        ("sdxl", "unet", "UNet2DConditionModel"),
        ("sdxl", "vae", "AutoencoderKL"),
        ("z_image", "vae", "AutoencoderKL"),
        ("flux2", "vae", "AutoencoderKLFlux2"),
    ):
        config = json.loads((tiny(family) / component / "config.json").read_text())
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
        # Flux.2's statistics of latents, which the conversion does not know, have the names of the original code
        back |= {name.removeprefix("vae."): tensor for name, tensor in file.items() if name.startswith("vae.bn.")}
    else:
        back = theirs.convert_ldm_unet_checkpoint(
            dict(file), {"class_embed_type": None, "layers_per_block": 2, **config}
        )
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name].reshape(-1), tensors[name].reshape(-1)) for name in tensors)
    return set(file)


@pytest.mark.parametrize(
    "family", ["flux", "sd3", "sdxl", "z_image", "qwen_image", "flux2", "flux2_klein", "wan22", "wan22_5b", "ltx"]
)
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
