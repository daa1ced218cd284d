"""Opens the files of one network or of a whole single-file model, whatever they are: what tensors there are, and where.

A safetensors file, its shards by their index, a GGUF file, or the folder of a component. No torch, and not a weight is
read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
# How Hugging Face's libraries and llama.cpp's gguf-split call the parts of a network that is too large for one file.
_SHARD = re.compile(
    r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<variant>\.\w+)?\.(?P<ending>safetensors|gguf)"
)
_MOST_SHARDS = 1000  # a name that says more is no shard's
_OWN_NAMES = ("diffusion_pytorch_model", "model")  # what diffusers and transformers save and load
_NAMED = 5  # files in a sentence


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
        path: a .safetensors or .gguf file (told by its content), an index of shards, a shard, which stands for all of
            them, or a folder that holds one of these.
        longest_array: metadata arrays with more entries are counted only.

    Raises:
        UserError: there is no such file, or nothing that can be opened in the folder, or several networks.
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


def is_adapter(names: Iterable[str]) -> bool:
    """Whether the tensors of a file are those of an adapter (LoRA), which changes a model and is none."""
    return any(name.endswith((".lora_A.weight", ".lora_down.weight")) for name in names)


def merged(checkpoints: list[Checkpoint]) -> Checkpoint:
    """Several sources as one, in their order; shards of one network, each of which stands for all, count once.

    Raises:
        ModelFileError: two of them hold a tensor of the same name.
    """
    checkpoints = list({checkpoint.files: checkpoint for checkpoint in checkpoints}.values())
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
        return "component folder", _in_folder(path)
    if path.name.endswith(_INDEX):
        return "sharded safetensors", _shards(path)
    files = _with_siblings(path)
    kind = "GGUF" if _looks_gguf(path) else "safetensors"
    return (f"sharded {kind}" if len(files) > 1 else f"{kind} file"), files


def _in_folder(path: Path) -> tuple[Path, ...]:
    """The files of the one network that a folder holds.

    Raises:
        UserError: it holds none, or several; the sentence names them.
    """
    kept: dict[Path, tuple[Path, ...]] = {index: _shards(index) for index in sorted(path.glob(f"*{_INDEX}"))}
    named = {file for files in kept.values() for file in files}
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.gguf")]):
        if file not in named:
            kept[file] = files = _with_siblings(file)
            named.update(files)
    if not kept:
        raise UserError(f"{path} holds no .safetensors or .gguf file; give a model folder or such a file.")
    # variants of one network lie beside each other (model.fp16.safetensors): from_pretrained takes the plain one
    stems = {_stem(file) for file in kept if _is_safetensors(file)}
    plain = {file: files for file, files in kept.items() if not (_is_safetensors(file) and _is_variant(file, stems))}
    own = [file for file in plain if _is_safetensors(file) and _stem(file) in _OWN_NAMES]
    if own and (path / "config.json").is_file():
        plain = {own[0]: plain[own[0]]}  # what from_pretrained takes, whatever lies beside it
    if len(plain) > 1:
        names = [file.name for file in plain]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise UserError(f"{path} holds several model files: {', '.join(names[:_NAMED])}{more}; give one of them.")
    return next(iter(plain.values()))


def _is_safetensors(file: Path) -> bool:
    return file.name.endswith((".safetensors", _INDEX))


def _stem(file: Path) -> str:
    """A safetensors file's or index's name without its ending and its number among shards."""
    name = file.name.removesuffix(_INDEX).removesuffix(".safetensors")
    match = _SHARD.fullmatch(f"{name}.safetensors")
    return match["stem"] + (match["variant"] or "") if match else name


def _is_variant(file: Path, stems: set[str]) -> bool:
    """Whether a file is called like a plain one with a word between, as in model.fp16.safetensors."""
    stem, dot, word = _stem(file).rpartition(".")
    return bool(dot) and word[:1].isalpha() and stem in stems


def _with_siblings(file: Path) -> tuple[Path, ...]:
    """A file, or all shards of the network that it is one shard of.

    Raises:
        ModelFileError: another shard is missing; names it.
    """
    match = _SHARD.fullmatch(file.name)
    if match is None:
        return (file,)
    index = file.with_name(f"{match['stem']}{_INDEX}")
    if match["ending"] == "safetensors" and index.is_file() and file in (shards := _shards(index)):
        return shards
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= _MOST_SHARDS:
        return (file,)
    ending = f"{match['variant'] or ''}.{match['ending']}"
    shards = tuple(
        file.with_name(f"{match['stem']}-{number:05}-of-{count:05}{ending}") for number in range(1, count + 1)
    )
    missing = next((shard for shard in shards if not shard.is_file()), None)
    if missing is not None:
        raise ModelFileError(
            f"{file} is one of {count} parts of a network, and {missing.name} is not beside it; download it."
        )
    return shards


def _shards(index: Path) -> tuple[Path, ...]:
    named = read_json(index).get("weight_map")
    shards = set(named.values()) if isinstance(named, dict) else set()
    if not shards or any(not isinstance(shard, str) or Path(shard).name != shard for shard in shards):
        raise ModelFileError(f"{index} does not name the files of its folder; download the model again.")
    missing = [shard for shard in sorted(shards) if not (index.parent / shard).is_file()]
    if missing:
        raise ModelFileError(f"{index.parent / missing[0]} is missing although {index.name} names it; download it.")
    return tuple(index.parent / shard for shard in sorted(shards))
