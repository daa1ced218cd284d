"""Reads a model folder in diffusers' format: `model_index.json` and a subfolder for each component. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from core.messages import ModelFileError, UserError
from core.models.families import clip_of, defaults_of
from core.models.headers import TensorHeader, read_header, read_json
from core.models.info import ComponentInfo, Extras, ModelInfo

INDEX = "model_index.json"
_WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
_SMALL_FILE_BYTES = 32 << 20  # tokenizers of large vocabularies have 20 MB
_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of each weight file: a fine-tune moves nearly every weight
_LARGEST_SCALE = 256  # of a VAE: beyond it a config is damaged
_UNPATCHED = ("LTXVideoTransformer3DModel",)
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def read_folder(path: Path, name: str = "") -> ModelInfo:
    """Inspect a model folder.

    Raises:
        UserError: the path is no model folder.
        ModelFileError: a file of it is missing or damaged; the sentence names the file.
    """
    path = path.expanduser().resolve()
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder or the file of a model.")
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give the folder that holds {INDEX}.")
    if not (path / INDEX).is_file():
        raise UserError(f"{path} holds no {INDEX}; give the folder of a model in diffusers' format.")
    identity = stamp(path)
    index, parts = read_index(path)
    digest = hashlib.sha256()
    for file in _small_files(path):
        digest.update(repr(str(file.relative_to(path))).encode() + file.read_bytes())
    components = {key: _component(path / key, key, *part, digest) for key, part in parts.items()}
    info = described(path, index, components, fingerprint=digest.hexdigest(), identity=identity)
    return msgspec.structs.replace(info, name=name or info.name)


def read_index(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
    """A model's index, and the library and class of each component that it names.

    Raises:
        ModelFileError: it is missing or damaged.
    """
    index = read_json(path / INDEX)
    if not isinstance(index.get("_class_name"), str):
        raise ModelFileError(f"{path / INDEX} does not name a pipeline class; download the model again.")
    parts = {
        key: (value[0], value[1])
        for key, value in index.items()
        if not key.startswith("_")
        and isinstance(value, list)
        and len(value) == 2
        and all(isinstance(word, str) and word for word in value)
    }
    return index, parts


def described(
    path: Path, index: dict[str, Any], components: dict[str, ComponentInfo], *, fingerprint: str, identity: str
) -> ModelInfo:
    """A model whose index and configs lie in a folder. Raises ModelFileError where one of them is damaged."""
    family = index["_class_name"]
    extras = _extras(path / "residency.json")
    spatial, temporal = _scale(path)
    return ModelInfo(
        name=extras.name or path.name,
        path=path,
        family=family,
        components=components,
        fingerprint=fingerprint,
        identity=identity,
        size_multiple=spatial * _patch(components),
        spatial=spatial,
        clip=clip_of(family, index, temporal),
        defaults=defaults_of(family, index, extras.defaults),
        preview=extras.preview,
        vocabulary=extras.vocabulary,
        index=index,
    )


def stamp(path: Path) -> str:
    """Changes whenever any file of a folder does: a SHA-256 over the path and each file's name, size and time."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((str(path), entries)).encode()).hexdigest()


def _small_files(path: Path) -> list[Path]:
    """The index, and every config and tokenizer file of the components."""
    files = [*path.glob("*.json"), *path.glob("*/*.json"), *path.glob("*/*.txt"), *path.glob("*/*.model")]
    return sorted(file for file in files if file.stat().st_size <= _SMALL_FILE_BYTES)


def sample(file: Path, digest: Any) -> None:
    """Take a weight file's size, its beginning and evenly spaced samples into a hash."""
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as stream:
        for number in range(_SAMPLES):
            stream.seek(size * number // _SAMPLES)
            digest.update(stream.read(_SAMPLE_BYTES))


def _component(folder: Path, name: str, library: str, class_name: str, digest: Any) -> ComponentInfo:
    if not folder.is_dir():
        raise ModelFileError(f"{folder} is missing although {INDEX} names it; download the model again.")
    tensors: dict[str, TensorHeader] = {}
    files = _weight_files(folder)
    if not files and any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise ModelFileError(
            f"{folder} holds its weights only as Python pickles, which can run code and are never opened; "
            "get the safetensors version of this model."
        )
    for file in files:
        header = read_header(file)
        tensors.update(header)
        digest.update(repr((name, file.name)).encode())
        sample(file, digest)
    types: dict[str, int] = {}
    for tensor in tensors.values():
        types[tensor.type] = types.get(tensor.type, 0) + tensor.end - tensor.start
    return ComponentInfo(
        name=name,
        library=library,
        class_name=class_name,
        files=tuple(str(file) for file in files),
        tensors=len(tensors),
        parameters=sum(tensor.elements for tensor in tensors.values()),
        bytes=sum(types.values()),
        types=types,
    )


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that `from_pretrained` will read: one file, or the shards that an index names."""
    for weights in _WEIGHTS:
        index = folder / f"{weights}.index.json"
        if index.is_file():
            shards = set(read_json(index).get("weight_map", {}).values())
            if any(not isinstance(shard, str) or Path(shard).name != shard for shard in shards):
                raise ModelFileError(f"{index} names files outside its folder; download the model again.")
            return [folder / shard for shard in sorted(shards)]
        if (folder / weights).is_file():
            return [folder / weights]
    return []


def _scale(path: Path) -> tuple[int, int]:
    """(pixels of an edge per latent position, frames per latent frame), as the VAE's config says."""
    config_file = path / "vae" / "config.json"
    config = read_json(config_file) if config_file.is_file() else {}

    def said(name: str) -> int | None:
        value = config.get(name)
        return value if isinstance(value, int) and 0 < value <= _LARGEST_SCALE else None

    def halved(name: str) -> int:
        stages = config.get(name)
        return 2 ** sum(map(bool, stages[:8])) if isinstance(stages, list) else 1

    if "spatio_temporal_scaling" in config:  # AutoencoderKLLTXVideo halves all three axes together
        scale = halved("spatio_temporal_scaling")
        spatial = said("spatial_compression_ratio") or (said("patch_size") or 1) * scale
        return spatial, said("temporal_compression_ratio") or (said("patch_size_t") or 1) * scale
    stages = config.get("block_out_channels") or config.get("dim_mult")
    levels = min(len(stages), 8) if isinstance(stages, list) and stages else 4
    temporal = said("scale_factor_temporal") or halved("temperal_downsample")
    return said("scale_factor_spatial") or 2 ** (levels - 1), temporal


def _patch(components: dict[str, ComponentInfo]) -> int:
    """How many latent positions of an edge a transformer takes as one: two, but for those that take each alone."""
    transformer = components.get("transformer")
    return 1 if transformer is None or transformer.class_name in _UNPATCHED else 2


def _extras(path: Path) -> Extras:
    if not path.is_file():
        return Extras()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Extras)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ModelFileError(f"{path} is damaged ({error}); delete it or get the model again.") from error
