"""Opens the files of one network or of a whole single-file model, whatever they are: what tensors there are, and where.

A safetensors file, its shards by their index, a GGUF file, or the folder of a component. No torch, and not a weight is
read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from core.messages import ModelFileError, UserError
from core.models.gguf_header import GgufHeader, Value, read_gguf
from core.models.headers import SafetensorsHeader, read_json, read_safetensors
from core.models.recognise import Recognised, recognise
from core.models.stored import Range, Stored, is_gguf

_INDEX = ".safetensors.index.json"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """`kind` says in words what the files are. `config` is a component's config.json; empty where there is none."""

    kind: str
    files: tuple[Path, ...]
    tensors: dict[str, Stored]
    metadata: dict[str, Value]
    config: dict[str, Any]
    recognised: Recognised

    @property
    def class_name(self) -> str:
        """The class that the config names, or nothing."""
        named = self.config.get("_class_name") or next(iter(self.config.get("architectures") or []), "")
        return named if isinstance(named, str) else ""


def open_checkpoint(path: Path, longest_array: int = 64) -> Checkpoint:
    """The tensors of a file, a shard index or a folder.

    Args:
        path: a .safetensors or .gguf file (told by its content), an index of shards, or a folder that holds one of
            these.
        longest_array: metadata arrays with more entries are counted only.

    Raises:
        UserError: there is no such file, or nothing that can be opened in the folder.
        ModelFileError: a file is damaged or missing; the sentence names it.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a model folder, a .safetensors or a .gguf file.")
    kind, files = _files(path)
    tensors: dict[str, Stored] = {}
    metadata: dict[str, Value] = {}
    for file in files:
        start, header = _header(file, longest_array)
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise ModelFileError(f"{file} and {tensors[name].file} both hold a tensor {name}; remove one of them.")
            tensors[name] = Stored(
                name, tensor.type, tensor.shape, (Range(file, start + tensor.start, start + tensor.end),)
            )
        metadata.update(header.metadata)
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "config.json") if path.is_dir() and (folder / "config.json").is_file() else {}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    recognised = recognise(shapes, path.name if path.is_dir() else path.name.split(".")[0])
    return Checkpoint(kind=kind, files=files, tensors=tensors, metadata=metadata, config=config, recognised=recognised)


def merged(checkpoints: list[Checkpoint]) -> Checkpoint:
    """Several sources as one, in their order.

    Raises:
        ModelFileError: two of them hold a tensor of the same name.
    """
    if len(checkpoints) == 1:
        return checkpoints[0]
    tensors: dict[str, Stored] = {}
    for checkpoint in checkpoints:
        for name, tensor in checkpoint.tensors.items():
            if name in tensors:
                raise ModelFileError(
                    f"{tensor.file} and {tensors[name].file} both hold a tensor {name}; give only one."
                )
            tensors[name] = tensor
    return Checkpoint(
        kind=checkpoints[0].kind,
        files=tuple(file for checkpoint in checkpoints for file in checkpoint.files),
        tensors=tensors,
        metadata={key: value for checkpoint in checkpoints for key, value in checkpoint.metadata.items()},
        config=next((checkpoint.config for checkpoint in checkpoints if checkpoint.config), {}),
        recognised=recognise({name: tensor.shape for name, tensor in tensors.items()}),
    )


def _header(file: Path, longest_array: int) -> tuple[int, SafetensorsHeader | GgufHeader]:
    """A file's header, and where in the file its positions count from."""
    if _looks_gguf(file):
        return 0, read_gguf(file, longest_array)
    if file.suffix in _PICKLES:
        raise ModelFileError(
            f"{file} is a Python pickle, which can run code and is never opened; get the safetensors version."
        )
    header = read_safetensors(file)
    return header.data_start, header


def _looks_gguf(file: Path) -> bool:
    return is_gguf(file) or file.suffix == ".gguf"


def _files(path: Path) -> tuple[str, tuple[Path, ...]]:
    """What a path is, and the files that it stands for."""
    if path.is_dir():
        indices = sorted(path.glob(f"*{_INDEX}"))
        found = sorted([*path.glob("*.safetensors"), *path.glob("*.gguf")])
        if indices:
            return "component folder", _shards(_preferred(indices))
        if not found:
            raise UserError(f"{path} holds no .safetensors or .gguf file; give a model folder or such a file.")
        # variants of one network lie beside each other (model.fp16.safetensors): from_pretrained takes the plain one
        return "component folder", (_preferred(found),)
    if path.name.endswith(_INDEX):
        return "sharded safetensors", _shards(path)
    return ("GGUF file" if _looks_gguf(path) else "safetensors file"), (path,)


def _preferred(files: list[Path]) -> Path:
    return min(files, key=lambda file: (len(file.name.removesuffix(_INDEX).split(".")), file.name))


def _shards(index: Path) -> tuple[Path, ...]:
    named = read_json(index).get("weight_map")
    shards = set(named.values()) if isinstance(named, dict) else set()
    if not shards or any(not isinstance(shard, str) or Path(shard).name != shard for shard in shards):
        raise ModelFileError(f"{index} does not name the files of its folder; download the model again.")
    missing = [shard for shard in sorted(shards) if not (index.parent / shard).is_file()]
    if missing:
        raise ModelFileError(f"{index.parent / missing[0]} is missing although {index.name} names it; download it.")
    return tuple(index.parent / shard for shard in sorted(shards))
