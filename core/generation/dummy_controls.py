"""What control networks are called with: the inputs of the denoiser that they steer, and the picture that they follow.

They run before it in every step; what they return stays on the device until it has run.
"""

from __future__ import annotations

from typing import Any

from core.generation.dummy_inputs import CALLS as STEERED
from core.generation.dummy_inputs import Call, Inputs, Size, empty

KIND = "image control"


def _flux(config: Any, size: Size) -> Inputs:
    inputs = STEERED["FluxTransformer2DModel"].inputs(config, size)
    return inputs | {"controlnet_cond": inputs["hidden_states"]}


def _sd3(config: Any, size: Size) -> Inputs:
    inputs = STEERED["SD3Transformer2DModel"].inputs(config, size)
    return inputs | {
        "controlnet_cond": empty(1, config.in_channels + config.extra_conditioning_channels, size.height, size.width)
    }


def _qwen_image(config: Any, size: Size) -> Inputs:
    inputs = STEERED["QwenImageTransformer2DModel"].inputs(config, size)
    packed = size.height * size.width // 4
    return inputs | {"controlnet_cond": empty(1, packed, config.in_channels + config.extra_condition_channels)}


def _unet(config: Any, size: Size) -> Inputs:
    # the picture is given in pixels: the network makes latent positions of it itself
    factor = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
    inputs = STEERED["UNet2DConditionModel"].inputs(config, size)
    return inputs | {
        "controlnet_cond": empty(1, config.conditioning_channels, size.height * factor, size.width * factor)
    }


CALLS: dict[str, Call] = {
    "FluxControlNetModel": Call(KIND, _flux),
    "SD3ControlNetModel": Call(KIND, _sd3),
    "QwenImageControlNetModel": Call(KIND, _qwen_image),
    "ControlNetModel": Call(KIND, _unet),
}
"""By class name."""
