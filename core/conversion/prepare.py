"""What a conversion is to write: the tensors, and what the file says about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from core import __version__
from core.conversion.choice import Input, inputs_of
from core.conversion.source import SourceTensor, factors_of, sources
from core.messages import UserError
from core.models import roles
from core.models.checkpoint import Checkpoint, merged, open_checkpoint
from core.models.folder import INDEX, read_folder
from core.models.gguf_header import ALIGNMENT_KEY, SHAPE_KEY, read_gguf
from core.models.gguf_write import Plain
from core.models.info import ComponentInfo, ModelInfo
from core.models.layouts import Arranged, arrange, places, present
from core.models.recognise import recognise, rules
from core.models.single import LAYOUTS, as_metadata, is_whole, read_file, small_files
from core.models.stored import NAMES, Range, Stored, is_gguf, stored_tensors
from core.models.together import check_together

OURS = "residency."
SOURCES, HASHES = f"{OURS}sources", f"{OURS}source_sha256"
"""Metadata keys: what was converted, and the SHA-256 of each of those files."""

HASH_CHARACTERS = 64
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION of ggml.h: the layout of its packed formats
_LARGEST_SOURCE_METADATA = 1 << 16  # bytes of a safetensors file's own metadata that are taken over
_CARD = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)  # what begins a model's README.md on Hugging Face


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """Tensors in the order of their sources; `copied` are metadata entries as they lie in GGUF sources."""

    inputs: list[Input]
    family: str
    metadata: dict[str, Plain]
    copied: dict[str, bytes]
    files: tuple[Path, ...]


def prepare(paths: Sequence[Path], component: str, name: str) -> Prepared:
    """Look at what is to be converted.

    Args:
        paths: files, shards or a network's folder, or one whole model (a folder or a file).
        component: of a whole model the only one that is to be written; empty for all.
        name: what the file calls itself where nothing else does.

    Raises:
        UserError: there is no such file or component, or several models at once.
        ModelFileError: a source is damaged, or its parts do not belong together.
    """
    whole = [path for path in paths if _whole(path)]
    if whole and len(paths) > 1:
        raise UserError(f"{whole[0]} is a whole model, which is converted by itself; give only that.")
    if whole:
        return _model(whole[0], component)
    if component:
        raise UserError(f"--component chooses from a whole model, and {paths[0]} is none; leave it away.")
    return _single(merged([open_checkpoint(path) for path in paths]), name)


def _whole(path: Path) -> bool:
    if (path / INDEX).is_file():
        return True
    return path.is_file() and is_gguf(path) and is_whole(read_gguf(path, 64))


def _single(checkpoint: Checkpoint, name: str) -> Prepared:
    copied = _copied(checkpoint.files)
    metadata: dict[str, Plain] = {
        "general.architecture": checkpoint.recognised.architecture or "unknown",
        "general.name": name,
        **_about(checkpoint.recognised.family, checkpoint.files),
    }
    if any(is_gguf(file) for file in checkpoint.files):
        del metadata["general.name"]  # its own is taken over, as is the architecture
        metadata["general.architecture"] = str(checkpoint.metadata.get("general.architecture", "unknown"))
    if checkpoint.config:
        metadata[f"{OURS}config"] = json.dumps(checkpoint.config)
    own = json.dumps({key: value for key, value in checkpoint.metadata.items() if isinstance(value, str)})
    if checkpoint.metadata and len(own) <= _LARGEST_SOURCE_METADATA and not copied:
        metadata[f"{OURS}source_metadata"] = own
    return Prepared(
        inputs=inputs_of(checkpoint, sources(checkpoint.tensors)),
        family=checkpoint.recognised.family,
        metadata=metadata,
        copied=copied,
        files=checkpoint.files,
    )


def _model(path: Path, only: str) -> Prepared:
    info = read_file(path) if path.is_file() else read_folder(path)
    check_together(path, info.family, info.path, info.components)
    if only and only not in info.networks:
        raise UserError(f"{path} has no network {only}; it has {', '.join(info.networks)}.")
    networks = {name: part for name, part in info.networks.items() if only in ("", name)}
    inputs: list[Input] = []
    layouts: dict[str, str] = {}
    named: dict[str, Plain] = {}
    architecture = ""
    for name, component in networks.items():
        stored = {present(key, component.class_name): tensor for key, tensor in stored_tensors(component).items()}
        shapes = {key: tensor.shape for key, tensor in stored.items()}
        arrangement = arrange(info.family, name, component.class_name, shapes, beside=info.networks, alone=bool(only))
        found = _inputs(component, stored, arrangement.tensors)
        if found is None:  # what would be joined has different types
            arrangement = arrange("", name, component.class_name, shapes, alone=bool(only))
            found = _inputs(component, stored, arrangement.tensors) or []
        inputs += found
        layouts[name] = arrangement.layout
        named[NAMES + name] = msgspec.json.encode(places(arrangement.tensors, shapes)).decode()
        if name in ("transformer", "unet"):
            seen = recognise({entry.inner: entry.shape for entry in arrangement.tensors})
            architecture = seen.architecture or _architecture(info.family)
    files = tuple(dict.fromkeys(Path(file) for part in networks.values() for file in part.files))
    metadata: dict[str, Plain] = {
        "general.architecture": architecture or "unknown",
        "general.type": "model",
        "general.name": info.name,
        **_licence(info),
        **_about(info.family, files),
        LAYOUTS: json.dumps(layouts),
    }
    if only:
        config = info.path / only / "config.json"
        metadata[f"{OURS}config"] = config.read_text(encoding="utf-8") if config.is_file() else "{}"
    else:
        metadata |= named
        metadata |= as_metadata(small_files(info.path))
    return Prepared(inputs=inputs, family=info.family, metadata=metadata, copied={}, files=files)


def _inputs(component: ComponentInfo, stored: dict[str, Stored], arranged: Sequence[Arranged]) -> list[Input] | None:
    kind = roles.kind_of(component.name, component.class_name)
    joined: dict[str, Stored] = {}
    factors: dict[str, tuple[float, ...]] = {}
    for entry in arranged:
        ranges: list[Range] = []
        for part in entry.parts:
            ranges += stored[part.name].rows(part.first, part.count)
        types = {stored[part.name].type for part in entry.parts}
        if len(types) > 1:
            return None
        joined[entry.name] = Stored(entry.name, types.pop(), entry.shape, tuple(ranges))
        factors[entry.name] = _factors(stored, entry)
    found: dict[str, SourceTensor] = sources(joined, factors)
    return [
        Input(
            name=entry.name,
            component=component.name,
            kind=kind,
            source=found[entry.name],
            members=tuple(
                (part.name, stored[part.name].elements * part.count // max(1, (stored[part.name].shape or (1,))[0]))
                for part in entry.parts
            ),
        )
        for entry in arranged
        if entry.name in found
    ]


def _factors(stored: dict[str, Stored], entry: Arranged) -> tuple[float, ...]:
    """What the numbers of a tensor that is put together are to be multiplied by: nothing, one factor, or one by row."""
    known = [(factors_of(stored[part.name]), part) for part in entry.parts]
    if len({factors for factors, _ in known}) == 1 and len(known[0][0]) <= 1:
        return known[0][0]
    rows: list[float] = []
    for factors, part in known:
        every = factors or (1.0,)
        rows += every * part.count if len(every) == 1 else every[part.first : part.first + part.count]
    return tuple(rows)


def _about(family: str, files: Sequence[Path]) -> dict[str, Plain]:
    return {
        "general.quantization_version": _QUANTIZATION_VERSION,
        f"{OURS}version": __version__,
        f"{OURS}family": family,
        SOURCES: [json.dumps({"file": file.name, "bytes": file.stat().st_size}) for file in files],
        HASHES: ["0" * HASH_CHARACTERS for _ in files],
    }


def _architecture(family: str) -> str:
    return next((marks.architecture for marks in rules().families if marks.family == family), "")


def _licence(info: ModelInfo) -> dict[str, Plain]:
    """What the model's card says of its licence, in the keys that GGUF has for it."""
    if info.file is not None:
        known = read_gguf(info.file, 64).metadata
        return {
            key: value for key, value in known.items() if key.startswith("general.license") and isinstance(value, str)
        }
    try:
        card = _CARD.match((info.path / "README.md").read_text(encoding="utf-8").replace("\r\n", "\n"))
    except (OSError, UnicodeDecodeError):
        card = None
    found: dict[str, Plain] = {}
    for line in card[1].splitlines() if card else ():
        key, _, value = line.partition(":")
        if key in ("license", "license_name", "license_link") and value.strip():
            found[f"general.{key.replace('_', '.')}"] = value.strip().strip("\"'")
    return found


def _copied(files: Sequence[Path]) -> dict[str, bytes]:
    """The metadata of GGUF sources, as they lie there: hyperparameters and vocabularies of a text encoder."""
    found: dict[str, bytes] = {}
    for file in files:
        if not is_gguf(file):
            continue
        with file.open("rb") as stream:
            for key, (start, end) in read_gguf(file, 64).pairs.items():
                if not key.startswith((ALIGNMENT_KEY, SHAPE_KEY, OURS, "general.file_type")):
                    stream.seek(start)
                    found[key] = stream.read(end - start)
    return found
