"""Networks on the meta device, from a class name and a config: shapes and types as in a run, not a byte of weights."""

from __future__ import annotations

import importlib
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn


def skeleton(library: str, class_name: str, config: dict[str, Any], dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """A network without weights, its tensors in the types that `from_pretrained(torch_dtype=dtype)` would give them.

    Args:
        library: "diffusers", "transformers", or a module of theirs for classes that they do not export.
        config: the content of the component's config.json.

    Raises:
        ValueError: there is no such class, or it does not take the config.
    """
    network = _class(library, class_name)
    try:
        # a copy: transformers' configs keep and change the dictionaries that they are made of
        copied = json.loads(json.dumps(config))
        parsed = copied if _diffusers(network) else network.config_class.from_dict(copied)
        module = _built(network, parsed, torch.device("meta"))
    except Exception as error:  # configs come from anywhere; the libraries raise all sorts
        raise ValueError(f"{class_name} does not take its config: {error}") from error
    _cast(module, dtype)
    return module


def from_folder(network: Any, folder: Path) -> nn.Module:
    """A network of a component's folder: parameters on the meta device, buffers as the class computes them.

    Raises whatever the libraries raise about a config.
    """
    read = network.load_config if _diffusers(network) else network.config_class.from_pretrained
    return _built(network, read(folder, local_files_only=True), init_empty_weights(include_buffers=False))


def persistent_tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """What a weight file holds: parameters and persistent float buffers, tied ones once."""
    kept = module.state_dict(keep_vars=True)
    seen: set[int] = set()
    tensors = []
    for name, tensor in kept.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            tensors.append((name, tensor))
    return tensors


def _diffusers(network: Any) -> bool:
    return hasattr(network, "from_config") and hasattr(network, "load_config")


def _built(network: Any, config: Any, where: AbstractContextManager[Any]) -> nn.Module:
    with where:
        module = network.from_config(config) if _diffusers(network) else network(config)
    return module.eval().requires_grad_(False)  # type: ignore[no-any-return]


def _class(library: str, class_name: str) -> Any:
    try:
        return getattr(importlib.import_module(library), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{library} has no {class_name}") from error


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Give what a file holds its compute type. What the libraries keep in f32, and buffers of no file, stay."""
    strict = list(getattr(module, "_keep_in_fp32_modules_strict", None) or [])
    wide = strict
    if hasattr(module, "load_config") or dtype == torch.float16:  # diffusers keeps them always, transformers in fp16
        wide = strict + list(getattr(module, "_keep_in_fp32_modules", None) or [])
    for name, tensor in persistent_tensors(module):
        tensor.data = tensor.data.to(torch.float32 if set(wide) & set(name.split(".")) else dtype)
