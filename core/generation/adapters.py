"""From a LoRA file to matrices by the layers of a model's networks.

The library's own conversion reads what trainers write (diffusers, peft, kohya, xlabs, ...); what it leaves as it is
stays in the file and is read from there, when it is needed, like any other weight.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import nn
from transformers import PreTrainedModel

from core.generation.layers import modulation_layers
from core.generation.pipeline import Pipeline
from core.generation.sources import DTYPES
from core.messages import Adapter, ModelFileError, Phase, UserError
from core.models import adapters
from core.models.adapters import AdapterInfo
from core.planning.job import Beside
from core.residency.adapters import Branch, Branches, Matrix, takes
from core.residency.blocks import blocks
from core.residency.slabs import aligned
from core.residency.store import FileTensor, MemoryTensor, OpenFile, Source

_ALPHA = "#alpha"  # marks an alpha that goes through the same renaming as its layer's first matrix
_MATRIX = re.compile(r"(.+)\.(?:lora_([AB])(?:\.(?!weight|bias)[\w-]+)?|lora\.(down|up))\.(weight|bias)")
# What trainers put before the names of the network that denoises where they train nothing else.
_BARE = ("base_model.model.", "diffusion_model.", "model.diffusion_model.")
# kohya's names: the layer's path with underscores for dots.
_FLAT = re.compile(r"lora_(unet|transformer|te\d?)_(.+?)\.(?:lora_(down|up)\.weight|(alpha))")
_FLAT_ENCODERS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}


@dataclass(frozen=True)
class Loaded:
    """A LoRA that fits a model: its branches by component. `unused` of its layers are not in the model."""

    name: str
    sha256: str
    components: Mapping[str, Branches]
    layers: int
    unused: int


class Attached(NamedTuple):
    """A LoRA of a request: as it was asked for, with its path and hash, and what it is.

    `another` says that it was asked for by the hash of another file.
    """

    asked: Adapter
    loaded: Loaded
    another: bool = False


def load(path: Path, pipeline: Pipeline) -> Loaded:
    """Read a LoRA file for a model.

    Raises:
        ModelFileError: it is no LoRA, damaged, or made for another model.
        UserError: nothing is known of LoRAs of the model's family.
    """
    info = adapters.read_adapter(path)
    file = OpenFile(path)
    data = torch.empty(info.bytes, dtype=torch.uint8)
    file.read("all", info.header.data_start, memoryview(data.numpy()))  # type: ignore[arg-type]
    tensors = {}
    for name, header in info.header.tensors.items():
        if header.type not in DTYPES:
            raise ModelFileError(f"{path}: tensor {name} has a type that is not known ({header.type}).")
        stored = data[header.start : header.end]
        if header.start % DTYPES[header.type].itemsize:
            stored = stored.clone()
        tensors[name] = stored.view(DTYPES[header.type]).view(header.shape)

    def source(tensor: torch.Tensor) -> Source:
        """Where a matrix is: in the file, if the conversion did not compute it."""
        if tensor.untyped_storage().data_ptr() == data.untyped_storage().data_ptr() and tensor.is_contiguous():
            start = info.header.data_start + tensor.storage_offset() * tensor.element_size()
            return FileTensor(file, int(start), tensor.dtype, tensor.numel() * tensor.element_size())
        return MemoryTensor(tensor.contiguous().clone())

    found = _by_component(info, tensors, pipeline)
    components = {}
    total = unused = 0
    example = ""
    for name, (network, layers) in found.items():
        branches = []
        for layer, parts in layers.items():
            total += 1
            why = _why_not(network, layer)
            if why:
                unused, example = unused + 1, example or f"{name}.{layer} {why}"
                continue
            branches.append(_branch(info, pipeline, network, layer, parts, source))
        if branches:
            components[name] = Branches(path.stem, tuple(branches))
    if not components:
        raise _for_another(info, pipeline, f"none of its {len(info.layers)} layers can be beside it ({example})")
    content = adapters.sha256(path)
    adapters.remember(path, content)
    return Loaded(path.stem, content, components, total, unused)


def beside(pipeline: Pipeline, name: str, branches: Iterable[Branches], dtype: torch.dtype) -> Beside:
    """What adapters add to a component's bytes and operations, as planning sees it."""
    network = pipeline.skeletons[name]
    prefix = {id(part): path for path, part in network.named_modules()}
    places = {prefix[id(block)]: number for number, block in enumerate(blocks(network))}
    folded = set(modulation_layers(network, pipeline.info.components[name].class_name))
    held, away = [0] * (len(places) + 1), [0] * (len(places) + 1)  # what is outside of blocks is last
    numbers = 0
    widths: dict[str, int] = {}
    for branch in (branch for some in branches for branch in some.branches):
        owner = branch.layer
        while owner and owner not in places:
            owner = owner.rpartition(".")[0]
        sizes = [matrix.shape for matrix in branch.matrices.values()]
        counts = [torch.Size(shape).numel() for shape in sizes]
        size = sum(aligned(count * dtype.itemsize) for count in counts)
        (away if branch.layer in folded else held)[places.get(owner, -1)] += size
        numbers += sum(counts)
        # a convolution's branch is computed apart from what it is added to
        apart = branch.up.shape[0] if len(branch.down.shape) > 2 else 0
        widths[branch.layer] = max(widths.get(branch.layer, 0), branch.rank + apart)
    return Beside(
        blocks=tuple(held[:-1]),
        rest=held[-1],
        folded_blocks=tuple(away[:-1]),
        folded_rest=away[-1],
        share=numbers / max(1, sum(parameter.numel() for parameter in network.parameters())),
        width=max(widths.values(), default=0),
    )


def remarks(attached: Sequence[Attached], model: str) -> list[str]:
    """What the person should know of a request's LoRAs."""
    found = []
    for one in attached:
        loaded = one.loaded
        if one.another:
            found.append(f"{loaded.name} is another file than the one that was asked for; the picture will differ")
        if loaded.unused:
            found.append(f"{loaded.unused} of the {loaded.layers} layers of {loaded.name} are not in {model}")
    return found


def encoding(attached: Sequence[Attached], pipeline: Pipeline) -> list[tuple[str, float]]:
    """What the text's encoding depends on of a request's LoRAs: (hash, weight) of those that change encoders."""
    encoders = {name for group in pipeline.phases if group.phase is Phase.ENCODE for name in group.networks}
    return [(one.loaded.sha256, one.asked.weight) for one in attached if encoders & set(one.loaded.components)]


# -- names ----------------------------------------------------------------------------------------------------------


Parts = dict[str, torch.Tensor]
"""A layer's tensors: A, B, bias, and alpha (a number)."""


def _by_component(
    info: AdapterInfo, tensors: Mapping[str, torch.Tensor], pipeline: Pipeline
) -> dict[str, tuple[nn.Module, dict[str, Parts]]]:
    """(network, tensors by layer) of each component that the file has something for."""
    converted, alphas = _converted(info, tensors, pipeline)
    denoiser = next(name for group in pipeline.phases if group.phase is Phase.DENOISE for name in group.networks)
    named: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in (*converted.items(), *((_marked(key), alpha) for key, alpha in alphas.items())):
        if key.endswith(".alpha"):
            key = _marked(key)
        component, name = _owner(key, pipeline.skeletons, denoiser)
        named.setdefault(component, {})[name] = torch.as_tensor(tensor)
    result = {}
    for component, some in named.items():
        network = pipeline.skeletons[component]
        layers: dict[str, Parts] = {}
        for name, tensor in _renamed(info, network, some).items():
            match = _MATRIX.fullmatch(name.removesuffix(_ALPHA))
            if match is None:
                raise ModelFileError(f"{info.path} has a tensor {name} that is no part of a LoRA; get a plain LoRA.")
            layer, letter, direction, kind = match.groups()
            part = "alpha" if name.endswith(_ALPHA) else "bias" if kind == "bias" else letter or "AB"[direction == "up"]
            layers.setdefault(layer, {})[part] = tensor
        _take_alphas(info, component, layers)
        result[component] = network, {layer: parts for layer, parts in layers.items() if set(parts) != {"alpha"}}
    return result


def _converted(
    info: AdapterInfo, tensors: Mapping[str, torch.Tensor], pipeline: Pipeline
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and alphas by names that begin with the component's, as the library's pipeline class has it."""
    flat = _unflattened(tensors, pipeline.skeletons)
    if flat is not None:
        return flat, {}
    convert = getattr(type(pipeline.modular), "lora_state_dict", None)
    if convert is None:
        raise UserError(f"Nothing is known of LoRAs for a {pipeline.info.family}; leave {info.path.name} away.")
    unet = pipeline.skeletons.get("unet")
    options = {} if unet is None else {"unet_config": unet.config}
    try:
        result = convert(dict(tensors), return_alphas=True, return_lora_metadata=True, **options)
    except Exception as error:  # a converter meets names that it does not know in its own ways
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise _for_another(info, pipeline, f"its tensors' names say so: {why[0][:120]}") from error
    return dict(result[0]), dict((result[1] or {}) if len(result) == 3 else {})


def _unflattened(
    tensors: Mapping[str, torch.Tensor], networks: Mapping[str, nn.Module]
) -> dict[str, torch.Tensor] | None:
    """kohya's names where each is a path of the model with underscores for dots; None where they are anything else."""
    paths: dict[str, dict[str, str]] = {}
    result = {}
    for key, tensor in tensors.items():
        match = _FLAT.fullmatch(key)
        if match is None:
            return None
        kind, flat, direction, alpha = match.groups()
        component = _FLAT_ENCODERS.get(kind) or ("unet" if "unet" in networks else "transformer")
        if component not in networks:
            return None
        if component not in paths:
            paths[component] = {path.replace(".", "_"): path for path, _ in networks[component].named_modules()}
        path = paths[component].get(flat) or paths[component].get(flat.removeprefix("text_model_"))
        if path is None:
            return None
        part = "alpha" if alpha else {"down": "lora_A.weight", "up": "lora_B.weight"}[direction]
        result[f"{component}.{path}.{part}"] = tensor
    return result


def _owner(key: str, networks: Mapping[str, nn.Module], denoiser: str) -> tuple[str, str]:
    """(component, the rest of the name). Without a component's name it is the denoiser's."""
    for prefix in _BARE:
        key = key.removeprefix(prefix)
    component, _, rest = key.partition(".")
    return (component, rest) if component in networks else (denoiser, key)


def _marked(alpha: str) -> str:
    """An alpha's name as that of its layer's first matrix, marked."""
    name = alpha.removesuffix(".alpha")
    return f"{name}{'' if name.endswith('.down.weight') else '.lora_A.weight'}{_ALPHA}"


def _renamed(info: AdapterInfo, network: nn.Module, some: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """peft's names for what has older ones."""
    if not isinstance(network, PreTrainedModel):
        return dict(convert_unet_state_dict_to_peft(some))
    try:
        some = convert_state_dict_to_peft(convert_state_dict_to_diffusers(some))
    except ValueError as error:
        if not all(_MATRIX.fullmatch(name.removesuffix(_ALPHA)) for name in some):
            raise ModelFileError(f"{info.path} names its tensors in a way that is not known ({error}).") from error
    if not hasattr(network, "text_model"):  # newer classes of CLIP are flat
        some = {name.removeprefix("text_model."): tensor for name, tensor in some.items()}
    return some


# -- layers ---------------------------------------------------------------------------------------------------------


def _take_alphas(info: AdapterInfo, component: str, layers: Mapping[str, Parts]) -> None:
    """Fill in the alphas of what peft trained, which its config in the file's metadata has."""
    text = info.header.metadata.get(LORA_ADAPTER_METADATA_KEY)
    if not text:
        return
    try:
        config = {
            key.removeprefix(f"{component}."): value
            for key, value in json.loads(text).items()
            if key.startswith(f"{component}.")
        }
        alpha, patterns = config.get("lora_alpha"), config.get("alpha_pattern") or {}
        for layer, parts in layers.items():
            # as peft looks patterns up: each is a regular expression for the end of a layer's name
            own = [value for key, value in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", layer)]
            given = own[0] if own else alpha
            if given is not None and "A" in parts and "alpha" not in parts:
                rank = parts["A"].shape[0]
                parts["alpha"] = torch.tensor(float(given) * (rank**0.5 if config.get("use_rslora") else 1.0))
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ModelFileError(f"{info.path} is damaged: its metadata are no config of peft ({error}).") from error


def _why_not(network: nn.Module, layer: str) -> str:
    """Why nothing can be beside a layer; empty where something can."""
    try:
        return takes(network.get_submodule(layer))
    except AttributeError:
        return "is not there"


def _branch(info: AdapterInfo, pipeline: Pipeline, network: nn.Module, layer: str, parts: Parts, source: Any) -> Branch:
    """One layer's branch, whose shapes fit the layer."""
    if not {"A", "B"} <= set(parts):
        raise ModelFileError(f"{info.path} is damaged: {layer} has one matrix of two; download the file again.")
    down, up, own = parts["A"], parts["B"], network.get_submodule(layer)
    rank = down.shape[0]
    weight: Any = own.weight
    shape = tuple(weight.shape)
    expected = (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))
    # a convolution of 1 x 1 and a linear layer are the same; files have either for the other
    down, up = _as(down, expected[0]), _as(up, expected[1])
    bias = parts.get("bias")
    if (tuple(down.shape), tuple(up.shape)) != expected or (bias is not None and tuple(bias.shape) != shape[:1]):
        raise _for_another(
            info,
            pipeline,
            f"its matrices for {layer} are {list(down.shape)} and {list(up.shape)}, where the model's weight is "
            f"{list(shape)}",
        )
    alpha = float(parts["alpha"]) if "alpha" in parts else float(rank)
    return Branch(
        layer,
        alpha / rank,
        Matrix(tuple(down.shape), source(down)),
        Matrix(tuple(up.shape), source(up)),
        None if bias is None else Matrix(tuple(bias.shape), source(bias)),
    )


def _as(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The same tensor with the extents of 1 at its end that another shape has."""
    return tensor.reshape(shape) if _trimmed(tensor.shape) == _trimmed(shape) else tensor


def _trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """A matrix's shape without extents of 1 at its end."""
    end = len(shape)
    while end > 2 and shape[end - 1] == 1:
        end -= 1
    return tuple(shape[:end])


def _for_another(info: AdapterInfo, pipeline: Pipeline, why: str) -> ModelFileError:
    return ModelFileError(
        f"{info.path} was made for another model than {pipeline.info.name} ({pipeline.info.family}): {why}; "
        "choose a LoRA of this model's family."
    )
