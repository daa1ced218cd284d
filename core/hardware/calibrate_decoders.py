"""What decodes each stored format while its speed is measured: diffusers' eager kernels, or faster ones if given."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch


@dataclass(frozen=True)
class Decoder:
    """How a format is decoded: `decode(blocks, dtype)` makes numbers [n, block_elements] of uint8 [n, block_bytes]."""

    block_elements: int
    block_bytes: int
    decode: Callable[[torch.Tensor, torch.dtype], torch.Tensor]
    what: str


def eager() -> dict[str, Decoder]:
    """Every format that torch or diffusers (quantizers/gguf/utils.py) decodes, by ggml's name."""
    found = {"F8_E4M3": Decoder(256, 256, _cast_f8, "torch's cast")}
    try:
        utils = importlib.import_module("diffusers.quantizers.gguf.utils")
    except ImportError:
        return found
    for kind, function in utils.dequantize_functions.items():
        elements, size = utils.GGML_QUANT_SIZES[kind]
        if kind.name != "BF16":
            decode = partial(_decode_eagerly, function, elements, size)
            found[kind.name] = Decoder(elements, size, decode, "diffusers' eager kernels")
    return found


def _cast_f8(blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return blocks.view(torch.float8_e4m3fn).to(dtype)


def _decode_eagerly(
    function: Callable[..., torch.Tensor], elements: int, size: int, blocks: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    return function(blocks, elements, size, dtype=dtype)
