"""A whole model in one GGUF file: its index, configs and tokenizers in the metadata, its networks among the tensors.

The small files are unpacked into the cache folder, where the libraries read them; weights stay in the file. No torch.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from core import folders
from core.messages import ModelFileError, UserError
from core.models.completed import identity
from core.models.folder import INDEX, described, read_index, sample, stamp
from core.models.gguf_header import GgufHeader, read_gguf
from core.models.info import ComponentInfo, ModelInfo
from core.models.stored import NAMES, stored_tensors
from core.models.together import check_together

TEXT, BYTES = "residency.file.", "residency.file64."
"""Begin the metadata keys of small files, whose paths follow: what is text as it is, anything else in base64."""

LAYOUTS = "residency.layouts"
"""The metadata key of the components' layouts, as JSON."""

ERRORS = "residency.rel_rmse"
"""The metadata key of the errors that tensors were stored with, in the order in which they lie in the file."""

_SMALL = ("*.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja")
_NOT = re.compile(r".*\.(safetensors|bin)\.index\.json")  # what only counts where weights are in shards
_NAME = re.compile(r"([A-Za-z0-9_][\w.-]{0,99}/)?[A-Za-z0-9_][\w.-]{0,99}\.(json|txt|model|jinja)", re.ASCII)
_LARGEST_FILE, _LARGEST_ALL, _MOST_FILES = 32 << 20, 80 << 20, 200  # bytes, bytes, files: headers have 100 MB


def is_whole(header: GgufHeader) -> bool:
    """Whether a GGUF file says that it holds a whole model."""
    return TEXT + INDEX in header.metadata


def small_files(path: Path) -> dict[str, bytes]:
    """What a model folder has beside weights, by path in it, as far as a model needs it.

    Raises:
        UserError: it is too much for a file's header.
    """
    found: dict[str, bytes] = {}
    for pattern in _SMALL:
        for file in sorted(path.glob(pattern)):
            name = file.relative_to(path).as_posix()
            if file.is_file() and _NAME.fullmatch(name) and not _NOT.fullmatch(name):
                if file.stat().st_size > _LARGEST_FILE:
                    raise UserError(f"{file} is too large to be put into one file with the model's weights.")
                found[name] = file.read_bytes()
    if sum(map(len, found.values())) > _LARGEST_ALL or len(found) > _MOST_FILES:
        raise UserError(f"{path} has more configs and tokenizers than a header has room for; convert one component.")
    return found


def as_metadata(files: Mapping[str, bytes]) -> dict[str, str]:
    """The metadata that hold small files."""
    entries = {}
    for name, content in files.items():
        try:
            entries[TEXT + name] = content.decode()
        except UnicodeDecodeError:
            entries[BYTES + name] = base64.b64encode(content).decode()
    return entries


def read_file(path: Path) -> ModelInfo:
    """Inspect a file that holds a whole model. What its networks need beside weights is unpacked into the cache.

    Raises:
        UserError: it holds no whole model, or there is no room for its small files.
        ModelFileError: it is damaged, or its parts do not belong together; the sentence names the part.
    """
    path = path.expanduser().resolve()
    header = read_gguf(path, 64)
    if not is_whole(header):
        raise UserError(f"{path} holds weights, but no whole model; give a model folder, or a file made from one.")
    fingerprint = _fingerprint(path, header)
    folder = _unpack(path, fingerprint, dict(_files(path, header)))
    index, parts = read_index(folder)
    components = {key: _component(path, header, key, *part) for key, part in parts.items()}
    check_together(path, index["_class_name"], folder, components)
    info = described(folder, index, components, fingerprint=fingerprint, identity=stamp_file(path))
    named = header.metadata.get("general.name")
    name = named if isinstance(named, str) and named.strip() else path.stem
    return msgspec.structs.replace(info, name=name[:100], file=path)


def stamp_file(path: Path) -> str:
    """Changes whenever the file does, or lies elsewhere."""
    status = path.stat()
    return hashlib.sha256(repr((str(path), status.st_size, status.st_mtime_ns)).encode()).hexdigest()


def stamp_of(info: ModelInfo) -> str:
    """What the identity of a model is now, be it a folder or a file."""
    if info.file is None:
        return stamp(info.path)
    if info.base is not None:
        return identity(info.file, stamp_of(info.base))
    return stamp_file(info.file) if (info.path / INDEX).is_file() else ""


def _fingerprint(path: Path, header: GgufHeader) -> str:
    digest = hashlib.sha256(repr(sorted((key, str(value)) for key, value in header.metadata.items())).encode())
    digest.update(repr([(name, tensor.type, tensor.shape) for name, tensor in header.tensors.items()]).encode())
    sample(path, digest)
    return digest.hexdigest()


def _component(path: Path, header: GgufHeader, name: str, library: str, class_name: str) -> ComponentInfo:
    if NAMES + name not in header.metadata:
        return ComponentInfo(name=name, library=library, class_name=class_name)
    component = ComponentInfo(name=name, library=library, class_name=class_name, files=(str(path),))
    tensors = stored_tensors(component)
    types: dict[str, int] = {}
    for tensor in tensors.values():
        types[tensor.type] = types.get(tensor.type, 0) + tensor.bytes
    return msgspec.structs.replace(
        component,
        tensors=len(tensors),
        parameters=sum(tensor.elements for tensor in tensors.values()),
        bytes=sum(types.values()),
        types=types,
    )


def _files(path: Path, header: GgufHeader) -> Iterator[tuple[str, bytes]]:
    """The small files, each checked to lie inside of the folder that it will be in."""
    count = total = 0
    for key, value in header.metadata.items():
        if not key.startswith((TEXT, BYTES)):
            continue
        name = key.removeprefix(BYTES).removeprefix(TEXT)
        if not _NAME.fullmatch(name) or not isinstance(value, str):
            raise ModelFileError(f"{path} is damaged: it holds a file {name[:80]!r}, which no model has.")
        try:
            content = value.encode() if key.startswith(TEXT) else base64.b64decode(value, validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise ModelFileError(f"{path} is damaged: its {name} cannot be read; download the file again.") from error
        count, total = count + 1, total + len(content)
        if count > _MOST_FILES or total > _LARGEST_ALL:
            raise ModelFileError(f"{path} is damaged: it holds more configs and tokenizers than any model has.")
        yield name, content


def _unpack(path: Path, fingerprint: str, files: Mapping[str, bytes]) -> Path:
    """The folder with a file's small files; made where it is not there whole. What an older file left is removed."""
    parent = folders.cache() / "models"
    owner = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    folder = parent / f"{owner}-{fingerprint[:32]}"
    if all(_same(folder / name, content) for name, content in files.items()):
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(f"{owner}-*"):
            shutil.rmtree(old, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=parent))
        try:
            for name, content in files.items():
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).write_bytes(content)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        if all(_same(folder / name, content) for name, content in files.items()):
            return folder  # another process was quicker
        raise UserError(
            f"The configs of {path.name} cannot be unpacked into {parent} ({error.strerror or error}); free some space "
            "there."
        ) from error
    return folder


def _same(file: Path, content: bytes) -> bool:
    try:
        return file.stat().st_size == len(content) and file.read_bytes() == content
    except OSError:
        return False
