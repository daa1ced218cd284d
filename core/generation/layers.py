"""What each layer of a network is for: which may be packed, which may be folded away, which stays as it is.

The rules are those the field agrees on (core.planning.policy says what follows from a role); what is special to a class
is data here.
"""

from __future__ import annotations

import re

import torch
from torch import nn

# Projections that see nothing but timestep and pooled conditioning: computed once per schedule, then not needed. All
# of a class see the same vector, or its SiLU. Source: the forward passes of diffusers' transformer_*.py, and a test by
# family. A UNet's time_emb_proj are left out: 1 % of SDXL.
_MODULATION = {
    "FluxTransformer2DModel": r"(.*\.)?(norm|norm1|norm1_context|norm_out)\.linear\.\w+",
    "SD3Transformer2DModel": r"(.*\.)?(norm1|norm1_context|norm_out)\.linear\.\w+",
    "QwenImageTransformer2DModel": r".*\.(img_mod|txt_mod)\.1\.\w+|norm_out\.linear\.\w+",
    "ZImageTransformer2DModel": r".*\.adaLN_modulation\.\d\.\w+",
    "Flux2Transformer2DModel": r"(double_stream_modulation_(img|txt)|single_stream_modulation|norm_out)\.linear\.\w+",
}
# Learned positions and relative biases are tables of few numbers that every token sees.
_TABLE = re.compile(r".*(position|relative)\w*(\.\w+)?")


def modulation_layers(module: nn.Module, class_name: str) -> list[str]:
    """The names of the linear layers that have nothing but modulation in them, in the order of definition."""
    pattern = _MODULATION.get(class_name)
    if pattern is None:
        return []
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return [name for name in layers if re.fullmatch(pattern, f"{name}.weight")]


def role(class_name: str, name: str, tensor: torch.Tensor, owner: nn.Module, *, inside: bool, denoiser: bool) -> str:
    """The role of one tensor (see core.models.profile.Tensor).

    Args:
        name: its full name in the network.
        owner: the layer that holds it.
        inside: it belongs to a block; outside of a denoiser's blocks are its in- and output layers and embedders.
    """
    modulation = _MODULATION.get(class_name)
    if modulation and re.fullmatch(modulation, name):
        return "modulation"
    if tensor.dim() < 2 or "norm" in name.rsplit(".", 2)[-2:][0]:
        return "keep"
    if isinstance(owner, nn.Embedding):
        return "keep" if _TABLE.fullmatch(name) else "embedding"
    if isinstance(owner, (nn.Linear, nn.modules.conv._ConvNd)):
        if denoiser and not inside:
            return "io"
        return "linear" if isinstance(owner, nn.Linear) else "conv"
    return "keep"
