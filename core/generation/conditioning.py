"""The conditioning cache: what the text encoders made of a prompt, on disk, by everything it depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from core import folders
from core.files import write_atomically
from core.hardware.interface import Accelerator
from core.messages import Request
from core.models.info import ModelInfo

# Files beyond this total are deleted, the longest unused first. An encoding of FLUX.1 is 4 MB.
LIMIT_BYTES = 512 * 1024 * 1024

Values = dict[str, Any]  # name -> tensor, list of tensors, or None


def key(
    model: ModelInfo,
    request: Request,
    accelerator: Accelerator,
    conditions: int,
    formats: Mapping[str, str],
    adapters: Sequence[tuple[str, float]] = (),
) -> str:
    """A name for the encoding of a request's texts: a hash of all that its numbers depend on.

    `conditions` is how many the guider will ask for: with one, some families leave the negative prompt unencoded.
    `formats` are those that the text encoders are held in, `adapters` (hash, weight) of what is beside them.
    """
    parts = (
        model.identity,
        sorted(formats.items()),
        conditions,
        request.prompt,
        request.negative_prompt,
        model.defaults.max_sequence_length,
        str(accelerator.compute_dtype),
        accelerator.kind,
        accelerator.name,
        torch.__version__,
        torch.get_num_threads() if accelerator.device.type == "cpu" else 0,
        version("diffusers"),
        version("transformers"),
        *adapters,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class ConditioningCache:
    """Encodings in safetensors files. A file that cannot be read is as good as none."""

    def __init__(self, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder or folders.cache() / "conditioning"
        self._limit = limit_bytes

    def load(self, name: str, device: torch.device) -> Values | None:
        """The encoding of that name, on `device`; None when it is not there."""
        path = self._folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                structure = json.loads((file.metadata() or {})["structure"])
                values = {entry: _read(file, entry, count, device) for entry, count in structure.items()}
            os.utime(path)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None
        return values

    def save(self, name: str, values: Mapping[str, Any]) -> bool:
        """Keep an encoding. False when it holds something else than tensors and lists of them, or on a full disk."""
        tensors: dict[str, torch.Tensor] = {}
        structure: dict[str, int] = {}  # -1: None, 0: a tensor, n: a list of n tensors
        for entry, value in values.items():
            if value is None:
                structure[entry] = -1
            elif isinstance(value, torch.Tensor):
                structure[entry] = 0
                tensors[entry] = value.detach().cpu().contiguous()
            elif isinstance(value, list) and value and all(isinstance(item, torch.Tensor) for item in value):
                structure[entry] = len(value)
                tensors |= {f"{entry}/{i}": item.detach().cpu().contiguous() for i, item in enumerate(value)}
            else:
                return False
        try:
            data = save(tensors, {"structure": json.dumps(structure)})
            write_atomically(self._folder / f"{name}.safetensors", lambda file: file.write(data))
            self._trim()
        except OSError:
            return False  # a cache that cannot be written costs time, not the picture
        return True

    def _trim(self) -> None:
        files = sorted(self._folder.glob("*"), key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in files)
        for path in files[:-1]:
            if total <= self._limit:
                return
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


def _read(file: Any, entry: str, count: int, device: torch.device) -> Any:
    if count < 0:
        return None
    if count == 0:
        return file.get_tensor(entry).to(device)
    return [file.get_tensor(f"{entry}/{i}").to(device) for i in range(count)]
