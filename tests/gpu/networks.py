"""Transformers of full size with random weights, made on the machine from the shipped configs, and what one pass of
them is given. Nothing is downloaded.

Numbers come from one pool of normal values (standard deviation 0.02, seed fixed) that is read again and again, each
tensor from where the last one ended: filling then costs a copy, and products still multiply numbers without a pattern
(a card computes faster, and cooler, on zeros). Norms keep 1. With these, activations stay finite in bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from accelerate import init_empty_weights
from torch import nn

from core.precision.codec import encode
from core.precision.formats import FORMATS, fitting
from core.residency.packed import PACKED, PackedEmbedding, PackedLinear, Scratch, pack
from core.resources import resource

DTYPE = torch.bfloat16
_DEVIATION = 0.02
_SEED = 20
# Odd, so that blocks of equal size get different numbers.
_POOL_NUMBERS = (64 << 20) - 57
_PACKED_ROWS = 4093  # of 256 numbers, encoded once for each format
_STEP = 500  # of 1000, where a timestep is asked for


class Workload(msgspec.Struct, frozen=True):
    """One pass: a shipped config, the format of its linear weights, and the size of the picture or clip in pixels.

    `changes` replace entries of the config (for tiny networks).
    """

    config: str
    stored: str = "BF16"
    width: int = 1024
    height: int = 1024
    frames: int = 1
    text_tokens: int = 512
    changes: Mapping[str, object] = {}


WORKLOADS = {
    "flux": Workload("flux-dev"),
    "flux-q8_0": Workload("flux-dev", "Q8_0"),
    "flux-q4_k": Workload("flux-dev", "Q4_K"),
    "z-image": Workload("z-image-turbo"),
    "qwen-image": Workload("qwen-image"),
    # one expert of the two, one picture: at many frames every card is busy for longer than any link takes
    "wan-14b": Workload("wan22-a14b"),
    "wan-14b-clip": Workload("wan22-a14b", width=832, height=480, frames=81),
}

_FEW = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 4}
_FLUX = {**_FEW, "num_single_layers": 6, "joint_attention_dim": 32, "axes_dims_rope": [4, 6, 6]}
_WIDE_FLUX = {**_FEW, "attention_head_dim": 128, "num_layers": 1, "num_single_layers": 3, "joint_attention_dim": 256}
_Z_IMAGE = {"dim": 64, "n_heads": 2, "n_kv_heads": 2, "n_layers": 4, "cap_feat_dim": 32, "axes_dims": [8, 12, 12]}
_QWEN_IMAGE = {**_FEW, "joint_attention_dim": 32, "axes_dims_rope": [4, 6, 6]}
_WAN = {**_FEW, "text_dim": 32, "ffn_dim": 64}


def _tiny(config: str, changes: Mapping[str, object], stored: str = "BF16") -> Workload:
    return Workload(config, stored, width=64, height=64, text_tokens=8, changes=changes)


TINY = {
    "tiny-flux": _tiny("flux-dev", _FLUX),
    "tiny-flux-q8_0": _tiny("flux-dev", _FLUX, "Q8_0"),
    "tiny-flux-q4_k": _tiny("flux-dev", _WIDE_FLUX, "Q4_K"),  # its rows divide by 256
    "tiny-z-image": _tiny("z-image-turbo", _Z_IMAGE),
    "tiny-qwen-image": _tiny("qwen-image", _QWEN_IMAGE),
    "tiny-wan": _tiny("wan22-a14b", _WAN),
}


def skeleton(workload: Workload) -> nn.Module:
    """The network in evaluation mode, its weights on the meta device, packed where their format asks for it."""
    import diffusers

    described = json.loads(resource("models", "configs", workload.config, "transformer.json").read_text("utf-8"))
    with init_empty_weights(include_buffers=False):
        module: nn.Module = getattr(diffusers, described["class_name"])(**{**described["config"], **workload.changes})
    module.eval()
    for layer in module.modules():  # not buffers: tables of positions stay as exact as their class made them
        for name, parameter in layer.named_parameters(recurse=False):
            layer._parameters[name] = nn.Parameter(parameter.to(DTYPE), requires_grad=False)
    names = [name for name, part in module.named_modules() if type(part) is nn.Linear]
    shapes = {f"{name}.weight": tuple(module.get_parameter(f"{name}.weight").shape) for name in names}
    pack(module, {name: fitting(workload.stored, shape, "BF16") for name, shape in shapes.items()}, Scratch())
    return module


def make(workload: Workload) -> nn.Module:
    """The network in host memory, with numbers."""
    module = skeleton(workload)
    _fill(module)
    return module


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are stored."""
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])


def arguments(workload: Workload, module: nn.Module, device: torch.device) -> dict[str, object]:
    """What the network is called with, as its pipeline in diffusers calls it: one picture or clip, no guidance pass.

    Raises:
        KeyError: a class that is not known here.
    """
    chance = torch.Generator().manual_seed(_SEED)
    config: Any = module.config
    rows, columns = workload.height // 16, workload.width // 16  # the VAE's 8 and patches of 2

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=chance).to(device, DTYPE)

    step = torch.tensor([_STEP / 1000], device=device)
    kind = type(module).__name__
    if kind == "FluxTransformer2DModel":
        places = torch.zeros(rows, columns, 3)
        places[..., 1], places[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
        return {
            "hidden_states": normal(1, rows * columns, config.in_channels),
            "encoder_hidden_states": normal(1, workload.text_tokens, config.joint_attention_dim),
            "pooled_projections": normal(1, config.pooled_projection_dim),
            "timestep": step.to(DTYPE),
            "guidance": torch.tensor([3.5], device=device),
            "img_ids": places.reshape(-1, 3).to(device, DTYPE),
            "txt_ids": torch.zeros(workload.text_tokens, 3, device=device, dtype=DTYPE),
        }
    if kind == "QwenImageTransformer2DModel":
        return {
            "hidden_states": normal(1, rows * columns, config.in_channels),
            "encoder_hidden_states": normal(1, workload.text_tokens, config.joint_attention_dim),
            "timestep": step.to(DTYPE),
            "img_shapes": [[(1, rows, columns)]],
        }
    if kind == "ZImageTransformer2DModel":
        return {
            "x": [normal(config.in_channels, 1, 2 * rows, 2 * columns)],
            "t": step,
            "cap_feats": [normal(workload.text_tokens, config.cap_feat_dim)],
        }
    if kind == "WanTransformer3DModel":
        frames = (workload.frames - 1) // 4 + 1  # the VAE's 4
        return {
            "hidden_states": normal(1, config.in_channels, frames, 2 * rows, 2 * columns),
            "timestep": torch.tensor([_STEP], device=device),
            "encoder_hidden_states": normal(1, workload.text_tokens, config.text_dim),
        }
    raise KeyError(kind)


@torch.no_grad()
def one_pass(module: nn.Module, given: Mapping[str, object]) -> torch.Tensor:
    """Run the network; what it predicts."""
    result = module(**given, return_dict=False)[0]
    return torch.stack(result) if isinstance(result, list) else result  # Z-Image gives a list


def _fill(module: nn.Module) -> None:
    """Give every parameter, and every packed layer, memory and numbers."""
    total = sum(parameter.numel() for parameter in module.parameters())
    chance = torch.Generator().manual_seed(_SEED)
    pool = torch.empty(min(_POOL_NUMBERS, total | 1)).normal_(0.0, _DEVIATION, generator=chance).to(DTYPE)
    packed: dict[str, torch.Tensor] = {}
    position = packed_position = 0
    for layer in module.modules():
        if isinstance(layer, (PackedLinear, PackedEmbedding)):
            if layer.stored not in packed:
                numbers = torch.empty(_PACKED_ROWS, 256).normal_(0.0, _DEVIATION, generator=chance)
                packed[layer.stored] = encode(numbers, layer.stored).view(-1, FORMATS[layer.stored].block_bytes)
            blocks = packed[layer.stored]
            target = torch.empty(layer.get_buffer(PACKED).shape, dtype=torch.uint8)
            packed_position = _copy(target.view(-1, blocks.shape[1]), blocks, packed_position)
            layer._buffers[PACKED] = target
        for name, parameter in layer.named_parameters(recurse=False):
            values = torch.empty(parameter.shape, dtype=DTYPE)
            if parameter.ndim == 1 and name == "weight":
                values.fill_(1.0)  # of a norm
            else:
                position = _copy(values.view(-1), pool, position)
            layer._parameters[name] = nn.Parameter(values, requires_grad=False)


def _copy(target: torch.Tensor, pool: torch.Tensor, position: int) -> int:
    """Fill `target` from the pool, from `position` on and again from its beginning; where the next one begins."""
    position, done = position % len(pool), 0
    while done < len(target):
        count = min(len(target) - done, len(pool) - position)
        target[done : done + count] = pool[position : position + count]
        done += count
        position = (position + count) % len(pool)
    return position
