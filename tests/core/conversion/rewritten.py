"""A GGUF file written anew with other metadata, its tensors as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from core.models.gguf_header import SHAPE_KEY, read_gguf
from core.models.gguf_write import Plain, lay_out


def rewritten(path: Path, out: Path, changes: Mapping[str, Plain | None]) -> Path:
    """`changes` by key; None takes an entry away."""
    header, data = read_gguf(path), path.read_bytes()
    kept = {
        key: data[start:end]
        for key, (start, end) in header.pairs.items()
        if key not in changes and key != "general.alignment" and not key.startswith(SHAPE_KEY)
    }
    tensors = [(name, tensor.type, tensor.shape) for name, tensor in header.tensors.items()]
    added = {key: value for key, value in changes.items() if value is not None}
    layout = lay_out(added, tensors, header.alignment, kept)
    whole = bytearray(layout.size)
    whole[: len(layout.header)] = layout.header
    for start, tensor in zip(layout.starts, header.tensors.values(), strict=True):
        whole[start : start + tensor.end - tensor.start] = data[tensor.start : tensor.end]
    out.write_bytes(whole)
    return out
