"""What each class of network is called with: empty inputs of the right shapes, for passes in which nothing is computed.

Shapes follow the stock pipelines of diffusers, one sample, without guidance (a guided pass is a second one). Clips and
sound are in core.generation.dummy_clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """What a pass is asked for: latent frames, rows and columns before any patching, and text tokens.

    Sound is a clip of one position a frame.
    """

    frames: int = 1
    height: int = 1
    width: int = 1
    tokens: int = 0

    @property
    def variables(self) -> dict[str, float]:
        """N, A and T as core.models.profile.Polynomial means them."""
        area = self.height * self.width
        return {"N": float(area * self.frames), "A": float(area), "T": float(self.tokens)}


@dataclass(frozen=True)
class Call:
    """How a class is run: `inputs` from its config and a size, `method` where it is not called itself.

    `kind` is a key of core.generation.samples.SAMPLES; `encode` are the inputs of a VAE's other direction. `prepare`
    changes a network on the meta device where it asks for values on its way.
    """

    kind: str
    inputs: Callable[[Any, Size], Inputs]
    method: str = ""
    encode: Callable[[Any, Size], Inputs] | None = None
    prepare: Callable[[Any], None] | None = None


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor on the meta device."""
    return torch.empty(shape, dtype=dtype, device="meta")


def _ids(length: int) -> torch.Tensor:
    return empty(1, length, dtype=torch.int64)


def _clip(config: Any, size: Size) -> Inputs:
    return {"input_ids": _ids(config.max_position_embeddings)}  # padded to that whatever is asked for


def _text(config: Any, size: Size) -> Inputs:
    return {"input_ids": _ids(size.tokens)}


def _masked_text(config: Any, size: Size) -> Inputs:
    return {"input_ids": _ids(size.tokens), "attention_mask": _ids(size.tokens)}


def _all_layers(config: Any, size: Size) -> Inputs:
    # the pipelines that take inner layers of a language model ask it to keep all of them
    return _masked_text(config, size) | {"output_hidden_states": True, "use_cache": False}


def _qwen_vl(config: Any, size: Size) -> Inputs:
    tokens = size.tokens + 34  # the template before the prompt (QwenImagePipeline.prompt_template_encode_start_idx)
    inputs = _all_layers(config, Size(tokens=tokens))
    return inputs | {"position_ids": empty(3, 1, tokens, dtype=torch.int64)}  # finding them asks for values


def _flux(config: Any, size: Size) -> Inputs:
    packed = size.height * size.width // 4
    inputs = {
        "hidden_states": empty(1, packed, config.in_channels),
        "encoder_hidden_states": empty(1, size.tokens, config.joint_attention_dim),
        "pooled_projections": empty(1, config.pooled_projection_dim),
        "timestep": empty(1),
        "img_ids": empty(packed, 3),
        "txt_ids": empty(size.tokens, 3),
    }
    return inputs | ({"guidance": empty(1, dtype=torch.float32)} if config.guidance_embeds else {})


def _flux2(config: Any, size: Size) -> Inputs:
    packed = size.height * size.width // 4
    inputs = {
        "hidden_states": empty(1, packed, config.in_channels),
        "encoder_hidden_states": empty(1, size.tokens, config.joint_attention_dim),
        "timestep": empty(1),
        "img_ids": empty(1, packed, 4, dtype=torch.int64),
        "txt_ids": empty(1, size.tokens, 4, dtype=torch.int64),
    }
    return inputs | ({"guidance": empty(1, dtype=torch.float32)} if config.guidance_embeds else {})


def _sd3(config: Any, size: Size) -> Inputs:
    clip = 77  # CLIP's tokens come before T5's
    return {
        "hidden_states": empty(1, config.in_channels, size.height, size.width),
        "encoder_hidden_states": empty(1, clip + size.tokens, config.joint_attention_dim),
        "pooled_projections": empty(1, config.pooled_projection_dim),
        "timestep": empty(1),
    }


def _qwen_image(config: Any, size: Size) -> Inputs:
    rows, columns = size.height // 2, size.width // 2
    return {
        "hidden_states": empty(1, rows * columns, config.in_channels),
        "encoder_hidden_states": empty(1, size.tokens, config.joint_attention_dim),
        "timestep": empty(1),
        "img_shapes": [[(1, rows, columns)]],
    }


def _z_image(config: Any, size: Size) -> Inputs:
    return {
        "x": [empty(config.in_channels, 1, size.height, size.width)],
        "t": empty(1),
        "cap_feats": [empty(size.tokens, config.cap_feat_dim)],
    }


def _unet(config: Any, size: Size) -> Inputs:
    inputs: Inputs = {
        "sample": empty(1, config.in_channels, size.height, size.width),
        "timestep": empty(1, dtype=torch.int64),
        "encoder_hidden_states": empty(1, size.tokens, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        sizes = 6  # original size, crop and target size
        pooled = config.projection_class_embeddings_input_dim - sizes * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {"text_embeds": empty(1, pooled), "time_ids": empty(1, sizes)}
    return inputs


def _latents(config: Any, size: Size) -> Inputs:
    return {"z": empty(1, config.latent_channels, size.height, size.width)}


def _picture(config: Any, size: Size) -> Inputs:
    factor = 2 ** (len(config.block_out_channels) - 1)
    return {"x": empty(1, config.in_channels, size.height * factor, size.width * factor)}


def _qwen_latents(config: Any, size: Size) -> Inputs:
    return {"z": empty(1, config.z_dim, 1, size.height, size.width)}


def _qwen_picture(config: Any, size: Size) -> Inputs:
    factor = 2 ** len(config.temperal_downsample)
    return {"x": empty(1, config.input_channels, 1, size.height * factor, size.width * factor)}


CALLS: dict[str, Call] = {
    "CLIPTextModel": Call("padded text", _clip),
    "CLIPTextModelWithProjection": Call("padded text", _clip),
    "T5EncoderModel": Call("text", _text),
    "UMT5EncoderModel": Call("text", _masked_text),
    "Qwen3Model": Call("text", _all_layers),
    "Qwen3ForCausalLM": Call("text", _all_layers),
    "Qwen2_5_VLForConditionalGeneration": Call("text", _qwen_vl),
    "Mistral3ForConditionalGeneration": Call("text", _all_layers),
    "Gemma3ForConditionalGeneration": Call("text", _all_layers),
    "FluxTransformer2DModel": Call("image denoiser", _flux),
    "Flux2Transformer2DModel": Call("image denoiser", _flux2),
    "SD3Transformer2DModel": Call("image denoiser", _sd3),
    "QwenImageTransformer2DModel": Call("image denoiser", _qwen_image),
    "ZImageTransformer2DModel": Call("image denoiser", _z_image),
    "UNet2DConditionModel": Call("image denoiser", _unet),
    "AutoencoderKL": Call("image vae", _latents, "decode", _picture),
    "AutoencoderKLFlux2": Call("image vae", _latents, "decode", _picture),
    "AutoencoderKLQwenImage": Call("image vae", _qwen_latents, "decode", _qwen_picture),
}
"""Texts and pictures, by class name."""
