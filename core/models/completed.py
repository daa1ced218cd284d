"""A file of weights as a model: what it holds, with the configs, tokenizers and other networks of a model like it.

Checkpoints of other programs hold networks and nothing else, or the network that denoises alone. core.models.fitting
says where in such a file each is. No torch, and of the weights only what has to be transposed is read.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from core import folders
from core.files import write_atomically
from core.messages import ModelFileError, UserError
from core.models.checkpoint import open_checkpoint
from core.models.fitting import Found, find
from core.models.folder import sample
from core.models.headers import ELEMENT_BYTES
from core.models.info import ComponentInfo, ModelInfo
from core.models.layouts import Arranged, places, present
from core.models.scales import with_scales
from core.models.stored import Stored, in_file, resolve, stored_tensors

_CODES: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}  # of memoryview, by bytes
_LARGEST_TURNED = 64 << 20  # bytes; CLIP-G's projection has 3 MB


def complete(path: Path, base: ModelInfo) -> ModelInfo:
    """The model that a file of weights and a base make together.

    Raises:
        MisfitError: nothing in the file fits the base, or a network of its own does not.
        UserError: what fits does not say which of two networks it is.
        ModelFileError: the file is damaged.
    """
    path = path.expanduser().resolve()
    checkpoint = open_checkpoint(path)
    tensors = with_scales(checkpoint.tensors)
    found = find(path, checkpoint, base)
    digest = hashlib.sha256(repr([(name, tensor.type, tensor.shape) for name, tensor in tensors.items()]).encode())
    sample(path, digest)
    digest.update(base.fingerprint.encode())
    fingerprint = digest.hexdigest()
    networks = {
        name: _component(path, base.components[name], entry, tensors, fingerprint) for name, entry in found.items()
    }
    return msgspec.structs.replace(
        base,
        name=path.stem[:100],
        components={**base.components, **networks},
        fingerprint=fingerprint,
        identity=identity(path, base.identity),
        file=path,
        base=base,
    )


def identity(path: Path, base: str) -> str:
    """What a file and its base are remembered by: it changes with either."""
    status = path.stat()
    return hashlib.sha256(repr((str(path), status.st_size, status.st_mtime_ns, base)).encode()).hexdigest()


def _component(
    path: Path, component: ComponentInfo, found: Found, tensors: Mapping[str, Stored], fingerprint: str
) -> ComponentInfo:
    """A network of the base with its weights in the file."""
    own = {present(key, component.class_name): tensor for key, tensor in stored_tensors(component).items()}
    shapes = {name: own[name].shape for entry in found.arrangement.tensors for name in _members(entry)}
    named = {name.removeprefix(found.prefix): tensor for name, tensor in tensors.items()}
    turned = {entry.name: named[entry.name] for entry in found.arrangement.tensors if entry.turned}
    if turned:
        named |= _turned(path, turned, folders.cache() / "models" / f"{fingerprint[:32]}-{component.name}.safetensors")
    where = places(found.arrangement.tensors, shapes)
    placed = {name: resolve(path, component.name, name, place, named) for name, place in where.items()}
    placed |= {name: tensor for name, tensor in own.items() if name not in placed and not _doubled(name)}
    types: dict[str, int] = {}
    for tensor in placed.values():
        types[tensor.type] = types.get(tensor.type, 0) + tensor.bytes
    return msgspec.structs.replace(
        component,
        files=tuple(sorted({str(part.file) for tensor in placed.values() for part in tensor.ranges})),
        tensors=len(placed),
        parameters=sum(tensor.elements for tensor in placed.values()),
        bytes=sum(types.values()),
        types=types,
        placed=placed,
    )


def _members(entry: Arranged) -> list[str]:
    return [part.name for part in entry.parts]


def _doubled(name: str) -> bool:
    """Whether a tensor that the file lacks is a copy of one that it has: the base's would be another's."""
    return name.endswith("embed_tokens.weight")


def _turned(path: Path, matrices: Mapping[str, Stored], out: Path) -> dict[str, Stored]:
    """Matrices of a file transposed, in a file of their own.

    Raises:
        ModelFileError: one is packed, whose rows would become columns.
        UserError: there is no room.
    """
    header: dict[str, object] = {}
    parts: list[bytes] = []
    at = 0
    for name, tensor in matrices.items():
        if tensor.type not in ELEMENT_BYTES or len(tensor.shape) != 2 or tensor.bytes > _LARGEST_TURNED:
            raise ModelFileError(f"{path}: {name} is stored as {tensor.type}, in which it cannot be transposed.")
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.ranges[0].start)
            numbers = memoryview(stream.read(tensor.bytes)).cast(_CODES[ELEMENT_BYTES[tensor.type]])
        rows, columns = tensor.shape
        parts.append(b"".join(numbers[column::columns].tobytes() for column in range(columns)))
        header[name] = {"dtype": tensor.type, "shape": [columns, rows], "data_offsets": [at, at + tensor.bytes]}
        at += tensor.bytes
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + b"".join(parts)
    try:
        if not out.is_file() or out.read_bytes() != content:
            write_atomically(out, lambda stream: stream.write(content))
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); free some space there.") from error
    return in_file(out)
