"""Tensors in F8 that are to be multiplied by a factor, which lies beside them in their file. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from core.models.stored import Stored

# What a factor is called: scale_weight by ComfyUI (comfy/ops.py), weight_scale by compressed-tensors and by ComfyUI's
# newer files, weight_scale_inv by DeepSeek's, which is a factor, too (transformers, integrations/finegrained_fp8.py).
_FACTORS = ("scale_weight", "weight_scale", "weight_scale_inv")
# What stands beside it for computing in F8, or says that there are factors.
_BESIDE = ("scale_input", "input_scale", "scaled_fp8", "comfy_quant")
_F8, _WEIGHT = "F8_", "weight"


def with_scales(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors of a network or file, those in F8 with their factors, and factors not as tensors of their own.

    A file that holds no F8 stays as it is.
    """
    eights = {name for name, tensor in tensors.items() if tensor.type.startswith(_F8) and _parts(name)[1] == _WEIGHT}
    if not eights:
        return dict(tensors)
    found = {}
    for name, tensor in tensors.items():
        owner, last = _parts(name)
        if last in _BESIDE or (last in _FACTORS and owner + _WEIGHT in eights):
            continue
        if name in eights:
            scale = next((tensors[owner + key] for key in _FACTORS if owner + key in tensors), None)
            tensor = msgspec.structs.replace(tensor, scale=scale)
        found[name] = tensor
    return found


def _parts(name: str) -> tuple[str, str]:
    """What a name begins with, its dot included, and its last word."""
    owner, dot, last = name.rpartition(".")
    return owner + dot, last
