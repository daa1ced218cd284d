"""What the layers of a model were given in a run of it, which rounding is fitted to; in memory, and in a file."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from core.conversion.choice import Candidate
from core.conversion.fitted import Inputs, fits, fitted, prepared
from core.files import write_atomically
from core.messages import ModelFileError
from core.models.headers import read_safetensors
from core.precision.formats import FORMATS

SUFFIX = ".safetensors"
_READY = 4  # prepared at once: two tensors, each of which two threads may be at


class Moments:
    """By component and name in it, the mean of x x^T over what a layer was given: float32 [row length, row length]."""

    def __init__(self, model: str, calls: int, of: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.model, self.calls, self.of = model, calls, of

    def __str__(self) -> str:
        """Names the content: other numbers, another text."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        found = hashlib.sha256()
        for component, tensors in sorted(self.of.items()):
            for name, tensor in sorted(tensors.items()):
                found.update(f"{component}/{name}/{len(tensor)}".encode())
                found.update(tensor.contiguous().numpy().data)
        return found.hexdigest()


def write_moments(path: Path, moments: Moments) -> None:
    """Keep them, whole or not at all. Raises OSError where there is no room."""
    tensors = {f"{part}/{name}": tensor for part, some in moments.of.items() for name, tensor in some.items()}
    data = safetensors.torch.save(tensors, {"model": moments.model, "calls": str(moments.calls)})
    write_atomically(path, lambda stream: stream.write(data))


def are_moments(path: Path) -> bool:
    """Whether `write_moments` wrote a file, by its header."""
    try:
        return {"model", "calls"} <= read_safetensors(path).metadata.keys()
    except (OSError, ModelFileError):
        return False


def read_moments(path: Path) -> Moments:
    """What `write_moments` wrote.

    Raises:
        ModelFileError: it is damaged or holds something else.
    """
    of: dict[str, dict[str, Tensor]] = {}
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118  no mapping
                component, _, name = key.partition("/")
                of.setdefault(component, {})[name] = file.get_tensor(key)
        model, calls = about["model"], int(about["calls"])
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise ModelFileError(
            f"{path} holds nothing that rounding could be fitted to ({error}); measure again."
        ) from error
    for name, tensor in ((name, tensor) for some in of.values() for name, tensor in some.items()):
        if (
            tensor.dtype != torch.float32
            or tensor.ndim != 2
            or len(set(tensor.shape)) != 1
            or not tensor.isfinite().all()
        ):
            raise ModelFileError(f"{path} is damaged: {name} is no square of finite numbers; measure again.")
    return Moments(model, calls, of)


class Fitting:
    """Encodes stretches of tensors so that they fit; may be called by any thread."""

    def __init__(self, moments: Moments, listed: Sequence[Candidate], formats: Mapping[str, str]) -> None:
        """Of the listed tensors those in packed formats whose layers are known."""
        self._moments, self._formats = moments, formats
        self._fitted = {entry.name for entry in listed if self._known(entry, formats[entry.name])}
        self._lock = threading.Lock()
        self._ready = functools.lru_cache(_READY)(self._prepare)

    def __len__(self) -> int:
        """How many tensors are fitted."""
        return len(self._fitted)

    def __contains__(self, candidate: Candidate) -> bool:
        return candidate.name in self._fitted

    def encode(self, candidate: Candidate, numbers: Tensor, first: int) -> Tensor:
        """The bytes of whole rows of a tensor, from number `first` on: float32 [n] to uint8 [bytes].

        Raises:
            ValueError: the format cannot hold a number.
        """
        stored, length = self._formats[candidate.name], candidate.shape[1]
        rows, at = numbers.view(-1, length), first // length
        parts, before = [], 0
        for name, count in candidate.members:  # they follow each other by rows
            after = before + count // length
            own = rows[max(before - at, 0) : max(after - at, 0)]
            before = after
            if len(own):
                with self._lock:
                    inputs = self._ready(candidate.component, name, FORMATS[stored].block_elements)
                parts.append(fitted(own, stored, inputs).view(-1))
        return torch.cat(parts)

    def _prepare(self, component: str, name: str, size: int) -> Inputs:
        found = prepared(self._moments.of[component][name], size)
        assert found is not None  # _known asks for what is not zero
        return found

    def _known(self, candidate: Candidate, stored: str) -> bool:
        own = candidate.source.stored.type
        if not fits(candidate.shape, stored) or own not in FORMATS or FORMATS[own].packed:
            return False
        of, length = self._moments.of.get(candidate.component, {}), candidate.shape[1]
        return all(
            name in of and len(of[name]) == length and float(of[name].trace()) > 0 and count % length == 0
            for name, count in candidate.members
        )
