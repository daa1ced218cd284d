"""Rewrites a component in a model folder: in F8 as downloads have it, or with the numbers that F8 stands for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Rewrite = Callable[[str, torch.Tensor], dict[str, torch.Tensor]]
F8 = torch.float8_e4m3fn


def rewritten(model: Path, to: Path, component: str, rewrite: Rewrite) -> Path:
    """A copy of a model folder in which the tensors of one component are others, each by its name and numbers."""
    shutil.copytree(model, to)
    (file,) = (to / component).glob("*.safetensors")
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(file).items():
        tensors |= rewrite(name, tensor)
    save_file(tensors, file, metadata={"format": "pt"})
    return to


def plain(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """All floats in F8, biases and norms too, as in flux1-dev-fp8.safetensors."""
    return {name: tensor.to(F8) if tensor.is_floating_point() else tensor}


def plain_in(dtype: torch.dtype) -> Rewrite:
    """The numbers of `plain` in another dtype."""
    return lambda name, tensor: {name: tensor.to(F8).to(dtype) if tensor.is_floating_point() else tensor}


def with_factors(name: str, tensor: torch.Tensor, *, key: str = "scale_weight") -> dict[str, torch.Tensor]:
    """Matrices in F8 with a factor each, everything else in F16, as ComfyUI's scaled files are."""
    if tensor.dim() != 2 or not name.endswith(".weight"):
        return {name: tensor.to(torch.float16)}
    scale = tensor.abs().max().float() / 448
    beside = {f"{name.removesuffix('weight')}scale_input": torch.tensor(1.0)}
    return {name: (tensor / scale).to(F8), f"{name.removesuffix('weight')}{key}": scale, **beside}


def with_row_factors(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Matrices in F8 with a factor for each row, everything else in F16, as compressed-tensors writes it."""
    if tensor.dim() != 2 or not name.endswith(".weight"):
        return {name: tensor.to(torch.float16)}
    scale = (tensor.abs().amax(1, keepdim=True).float() / 448).clamp(min=1e-6)
    return {name: (tensor / scale).to(F8), f"{name.removesuffix('weight')}weight_scale": scale}


def multiplied(rewrite: Rewrite) -> Rewrite:
    """The numbers that a file in F8 with factors stands for, in F32."""

    def numbers(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = rewrite(name, tensor)
        factor = next((part for key, part in parts.items() if key.endswith(("scale_weight", "weight_scale"))), None)
        return {name: parts[name].float() if factor is None else parts[name].float() * factor}

    return numbers
