"""Between torch's dtypes and the names of formats."""

from __future__ import annotations

import torch

FORMAT_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
}


def format_name(dtype: torch.dtype) -> str:
    """ggml's name of a dtype, e.g. BF16."""
    return FORMAT_NAMES.get(dtype, str(dtype).removeprefix("torch.").upper())


def component_dtype(compute: torch.dtype, config: object) -> torch.dtype:
    """What a component is held in: the compute dtype, or f32 where its own config says that fp16 overflows.

    SDXL's VAE sets `force_upcast`; its decode block would otherwise cast the held weights in the middle of a run.
    """
    return torch.float32 if getattr(config, "force_upcast", False) and compute == torch.float16 else compute
