"""Packs a component's weights once and keeps them on disk, where a plan wants a format that its files do not have.

Only what is packed goes into the file (GGUF, in the order in which it is used); everything else is still read from the
model's own files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from torch import nn

from core import folders
from core.files import temporary_beside
from core.generation.layers import role
from core.generation.skeletons import persistent_tensors
from core.messages import ModelFileError, UserError
from core.models.info import ComponentInfo
from core.models.profile import Tensor
from core.models.stored import Stored
from core.planning import policy
from core.precision.codec import encode
from core.precision.formats import FORMATS
from core.residency.blocks import blocks
from core.residency.slabs import ALIGNMENT, Division, Piece
from core.residency.store import FileTensor, HostStore, OpenFile, Source
from core.sizes import in_words

_CHUNK_ELEMENTS = 1 << 22  # numbers read and packed at once
_SCALE = "_scale"  # ends the name of the factor of a tensor in F8
_LARGEST_F8 = 448.0
_LARGEST_EXPONENT = 126  # of two, so that factors are no denormal numbers

Value = TypeVar("Value")

Tick = Callable[[float], None]
"""Told the share that is done, 0 to 1; may raise to stop."""


def packed_formats(
    module: nn.Module, component: ComponentInfo, wanted: str, stored: Mapping[str, Stored], *, denoiser: bool
) -> dict[str, str]:
    """The format of each weight that is held packed, by the weight's name.

    Args:
        module: a skeleton.
        wanted: the component's format; policy says which tensors take another one or stay as they are.
        stored: the component's tensors in its files, by their names in the network; empty where nobody knows.
        denoiser: whether what lies outside of its blocks are in- and output layers.
    """
    prefix = {id(part): name for name, part in module.named_modules()}
    inside = tuple(f"{prefix[id(block)]}." for block in blocks(module))
    result = {}
    for name, tensor in persistent_tensors(module):
        owner = module.get_submodule(name.rpartition(".")[0])
        if type(owner) not in (nn.Linear, nn.Embedding) or not name.endswith(".weight"):
            continue
        what = role(component.class_name, name, tensor, owner, inside=name.startswith(inside), denoiser=denoiser)
        has = stored[name].type if name in stored else ""
        known = Tensor(name, tuple(tensor.shape), what, has if has in FORMATS else "")
        result[name] = policy.tensor_format(known, wanted, component.format)
    return {name: format_ for name, format_ in result.items() if FORMATS[format_].held_packed}


def packed_file(
    fingerprint: str,
    component: str,
    formats: Mapping[str, str],
    dense: tuple[Division, HostStore],
    tick: Tick,
    folder: Path | None = None,
) -> Path:
    """The file with a component's packed weights; made if it is not there.

    Args:
        fingerprint: of the model's content.
        dense: the component's slabs before packing, and where their bytes are.
        folder: where such files are kept.

    Raises:
        ModelFileError: a weight is not a number, or a file is damaged; names the tensor.
        UserError: there is no room on the disk.
    """
    name = hashlib.sha256(json.dumps([fingerprint, component, sorted(formats.items())]).encode()).hexdigest()[:32]
    path = (folder or folders.cache() / "packed") / f"{component}-{name}.gguf"
    if path.is_file():
        return path
    pieces = [piece for slab in dense[0].slabs for piece in slab.pieces if piece.path in formats]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as part:
            _write(part, component, pieces, formats, dense[1], tick)
    except OSError as error:
        size = sum(FORMATS[formats[piece.path]].bytes_of(piece.shape) for piece in pieces)
        raise UserError(
            f"The packed {component} needs {in_words(size)} in {path.parent} ({error.strerror or error}); free some "
            "space there, or choose a format that the model's files have."
        ) from error
    return path


def packed_sources(path: Path) -> tuple[dict[str, Source], dict[str, torch.Tensor]]:
    """Where each packed weight lies in such a file, by its name, and the factor of each that is in F8.

    Raises:
        ModelFileError: the file is damaged; it is removed, to be made anew.
    """
    try:
        tensors = GGUFReader(path).tensors
        scales = {
            tensor.name.removesuffix(_SCALE): torch.tensor(tensor.data[:1])
            for tensor in tensors
            if tensor.name.endswith(f".weight{_SCALE}")
        }
    except (ValueError, OSError, IndexError, KeyError) as error:
        path.unlink(missing_ok=True)
        raise ModelFileError(f"{path} is damaged and was removed; generate again to have it made anew.") from error
    file = OpenFile(path)
    return {
        tensor.name: FileTensor(file, int(tensor.data_offset), torch.uint8)
        for tensor in tensors
        if not tensor.name.endswith(f".weight{_SCALE}")
    }, scales


def with_aliases(values: Mapping[str, Value], division: Division) -> dict[str, Value]:
    """What is known of weights by every name that each has in its network."""
    return {
        name: values[known] for names in division.same.values() for known in names if known in values for name in names
    }


def _write(
    path: Path, component: str, pieces: list[Piece], formats: Mapping[str, str], store: HostStore, tick: Tick
) -> None:
    writer = GGUFWriter(path, component)
    writer.add_custom_alignment(ALIGNMENT)
    for piece in pieces:
        stored = FORMATS[formats[piece.path]]
        rows = math.prod(piece.shape[:-1])
        shape = (rows, stored.bytes_of((1, piece.shape[-1])))
        # ggml has no F8: its bytes go as integers, and what they are multiplied by as a tensor behind them
        kind = GGMLQuantizationType[stored.name if stored.packed else "I8"]
        writer.add_tensor_info(piece.path, shape, np.dtype(np.uint8), math.prod(shape), kind)
        if not stored.packed:
            writer.add_tensor_info(f"{piece.path}{_SCALE}", (1,), np.dtype(np.float32), 4)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total, done = sum(math.prod(piece.shape) for piece in pieces), 0
        for piece in pieces:
            stored = FORMATS[formats[piece.path]]
            scale = 1.0
            if not stored.packed:
                largest = 0.0
                for some in _stretches(piece, store):
                    tick(done / total)
                    largest = max(largest, float(some.abs().max()))
                scale = power_of_two(largest)
            packed = []
            for some in _stretches(piece, store):
                tick(done / total)
                packed.append(_encode(some.div_(scale), stored.name, piece.path))
                done += some.numel()
            writer.write_tensor_data(torch.cat(packed).numpy())
            if not stored.packed:
                writer.write_tensor_data(np.array([scale], np.float32))
    finally:
        writer.close()


def power_of_two(largest: float) -> float:
    """What numbers of at most this magnitude are divided by before they become F8: they then use all of its reach.

    A power of two changes no digit of them. F8_E4M3 has its three digits from 2^-6 to 448, which is more than the
    weights of a layer differ by, so that a factor for each row would win next to nothing.
    """
    if not 0 < largest < math.inf:
        return 1.0  # nothing to scale, or not a number, which encoding refuses
    mantissa, exponent = math.frexp(largest / _LARGEST_F8)
    return 2.0 ** max(-_LARGEST_EXPONENT, exponent - 1 if mantissa == 0.5 else exponent)


def _stretches(piece: Piece, store: HostStore) -> Iterator[torch.Tensor]:
    """A tensor's numbers in float32, some rows at a time."""
    columns = piece.shape[-1]
    numbers = Piece(piece.path, (math.prod(piece.shape[:-1]), columns), torch.float32, 0)
    step = max(1, _CHUNK_ELEMENTS // columns)
    for row in range(0, numbers.shape[0], step):
        some = torch.empty(min(step, numbers.shape[0] - row), columns)
        store.read(numbers, some.view(-1).view(torch.uint8), row * columns * 4)
        yield some


def _encode(rows: torch.Tensor, stored: str, name: str) -> torch.Tensor:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the encoders' many small operations lose more to barriers than they win
    try:
        return encode(rows, stored)
    except ValueError as error:
        raise ModelFileError(f"{name} cannot be packed as {stored}: {error}.") from error
    finally:
        torch.set_num_threads(threads)
