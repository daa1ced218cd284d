"""ggml's own quantizers, the tests' oracle, as the wheel `xllamacpp` exports them (development dependency, MIT)."""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import gguf
import torch

from core.precision.formats import FORMATS


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None, "xllamacpp is missing; install the dev extra"
    assert spec.origin is not None
    # found, not imported: its Python side brings a server that nobody here needs
    library = ctypes.CDLL(
        str(next(path for path in Path(spec.origin).parent.glob("xllamacpp*") if path.suffix != ".py"))
    )
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def quantize(rows: torch.Tensor, name: str, importance: torch.Tensor | None = None) -> torch.Tensor:
    """ggml's bytes of float32 rows [rows, row length]: uint8 [rows, bytes per row]."""
    rows = rows.contiguous()
    count, length = rows.shape
    entry = FORMATS[name]
    out = torch.empty((count, length // entry.block_elements * entry.block_bytes), dtype=torch.uint8)
    kind = gguf.GGMLQuantizationType[name].value
    weights = None if importance is None else importance.contiguous().data_ptr()
    written = _library().ggml_quantize_chunk(kind, rows.data_ptr(), out.data_ptr(), 0, count, length, weights)
    assert written == out.numel()
    return out
