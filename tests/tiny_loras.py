"""Random LoRAs for the starter and for tiny models, in the names that trainers write."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from core.generation.pipeline import build
from core.hardware.accelerator import TorchAccelerator
from core.models.folder import read_folder

RANK = 4


def networks(folder: Path) -> dict[str, nn.Module]:
    """A model's networks by component, without weights."""
    return build(read_folder(folder), TorchAccelerator("cpu", "CPU")).skeletons


def write(
    path: Path,
    folder: Path,
    components: tuple[str, ...],
    *,
    naming: str = "diffusers",
    seed: int = 0,
    strength: float = 0.5,
    convolutions: bool = False,
    encoder_layers: tuple[str, ...] = ("q_proj", "v_proj", "fc1"),
) -> Path:
    """A LoRA beside every linear layer of a denoiser, and some of encoders. `naming` is diffusers or kohya (flattened).

    `strength` is about the share of a layer's own output that it adds.
    """
    generator = torch.Generator().manual_seed(seed)
    prefixes = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    tensors: dict[str, torch.Tensor] = {}
    skeletons = networks(folder)
    for component in components:
        for name, layer in skeletons[component].named_modules():
            kinds = (nn.Linear, nn.Conv2d) if convolutions else (nn.Linear,)
            if not isinstance(layer, kinds):
                continue
            if component.startswith("text_encoder") and not name.endswith(encoder_layers):
                continue
            out, *into = layer.weight.shape
            size = torch.Size(into).numel()
            down = torch.randn(RANK, *into, generator=generator) / size**0.5
            up = torch.randn(out, RANK, *(1 for _ in into[1:]), generator=generator) * strength / RANK**0.5 / size**0.5
            if naming == "diffusers":
                key, parts = f"{component}.{name}", ("lora_A.weight", "lora_B.weight")
            else:
                flat = name.replace(".", "_")
                if component.startswith("text_encoder") and not hasattr(skeletons[component], "text_model"):
                    flat = f"text_model_{flat}"
                key, parts = f"{prefixes.get(component, 'lora_unet')}_{flat}", ("lora_down.weight", "lora_up.weight")
                tensors[f"{key}.alpha"] = torch.tensor(RANK / 2)
                up = up * 2
            tensors[f"{key}.{parts[0]}"], tensors[f"{key}.{parts[1]}"] = down, up
    save_file(tensors, path)
    return path
