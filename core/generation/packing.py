"""Packs a component's weights once and keeps them on disk, where a plan wants a format that its files do not have.

Only what is packed goes into the file (GGUF, in the order in which it is used); everything else is still read from the
model's own files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from torch import nn

from core import folders
from core.files import temporary_beside
from core.generation.roles import role
from core.generation.skeletons import persistent_tensors
from core.messages import ModelFileError, UserError
from core.models.profile import Tensor
from core.planning import policy
from core.precision.codec import encode
from core.precision.formats import FORMATS
from core.residency.blocks import blocks
from core.residency.packed import PACKED
from core.residency.slabs import ALIGNMENT, Division, Piece
from core.residency.store import FileTensor, HostStore, OpenFile
from core.sizes import in_words

_CHUNK_ELEMENTS = 1 << 22  # numbers read and packed at once

Tick = Callable[[float], None]
"""Told the share that is done, 0 to 1; may raise to stop."""


def packed_formats(module: nn.Module, class_name: str, wanted: str, source: str, *, denoiser: bool) -> dict[str, str]:
    """The packed format of each weight that gets one, by the weight's name.

    Args:
        module: a skeleton.
        wanted: the component's format; policy says which tensors take another one or stay as they are.
        source: the format of the component's files.
        denoiser: whether what lies outside of its blocks are in- and output layers.
    """
    if not FORMATS[wanted].packed:
        return {}
    prefix = {id(part): name for name, part in module.named_modules()}
    inside = tuple(f"{prefix[id(block)]}." for block in blocks(module))
    result = {}
    for name, tensor in persistent_tensors(module):
        owner = module.get_submodule(name.rpartition(".")[0])
        if type(owner) not in (nn.Linear, nn.Embedding) or not name.endswith(".weight"):
            continue
        what = role(class_name, name, tensor, owner, inside=name.startswith(inside), denoiser=denoiser)
        stored = policy.tensor_format(Tensor(name, tuple(tensor.shape), what), wanted, source)
        if FORMATS[stored].packed:
            result[name] = stored
    return result


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


def packed_sources(path: Path) -> dict[str, FileTensor]:
    """Where each packed weight lies in such a file, by the name of its buffer.

    Raises:
        ModelFileError: the file is damaged; it is removed, to be made anew.
    """
    try:
        tensors = GGUFReader(path).tensors
    except (ValueError, OSError, IndexError, KeyError) as error:
        path.unlink(missing_ok=True)
        raise ModelFileError(f"{path} is damaged and was removed; generate again to have it made anew.") from error
    file = OpenFile(path)
    return {
        f"{tensor.name.removesuffix('weight')}{PACKED}": FileTensor(file, int(tensor.data_offset), torch.uint8)
        for tensor in tensors
    }


def with_aliases(formats: Mapping[str, str], division: Division) -> dict[str, str]:
    """The formats by every name that a weight has in its network."""
    return {
        name: formats[known]
        for names in division.same.values()
        for known in names
        if known in formats
        for name in names
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
        kind = GGMLQuantizationType[stored.name]
        writer.add_tensor_info(piece.path, shape, np.dtype(np.uint8), math.prod(shape), kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total, done = sum(math.prod(piece.shape) for piece in pieces), 0
        for piece in pieces:
            packed = []
            columns = piece.shape[-1]
            numbers = Piece(piece.path, (math.prod(piece.shape[:-1]), columns), torch.float32, 0)
            step = max(1, _CHUNK_ELEMENTS // columns)
            for row in range(0, numbers.shape[0], step):
                tick(done / total)
                count = min(step, numbers.shape[0] - row)
                some = torch.empty(count, columns)
                store.read(numbers, some.view(-1).view(torch.uint8), row * columns * 4)
                packed.append(_encode(some, formats[piece.path], piece.path))
                done += some.numel()
            writer.write_tensor_data(torch.cat(packed).numpy())
    finally:
        writer.close()


def _encode(rows: torch.Tensor, stored: str, name: str) -> torch.Tensor:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the encoders' many small operations lose more to barriers than they win
    try:
        return encode(rows, stored)
    except ValueError as error:
        raise ModelFileError(f"{name} cannot be packed as {stored}: {error}.") from error
    finally:
        torch.set_num_threads(threads)
