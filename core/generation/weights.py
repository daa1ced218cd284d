"""A component as slabs: its skeleton, the dtypes that it is held in, and where in its files each tensor lies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from core.generation.sources import Files, known
from core.models.info import ComponentInfo
from core.models.stored import Stored, stored_tensors
from core.residency.packed import FACTORS, PACKED, Scratch, pack
from core.residency.slabs import Division, divide
from core.residency.store import HostStore, MemoryTensor, Source

Slabs = tuple[Division, HostStore]
"""How a network is cut, and where the bytes are."""


def held_dtypes(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """What each floating-point parameter and persistent buffer is held in, as the libraries would load it.

    Some layers are marked as needing F32: by diffusers whatever the dtype, by transformers for F16, or strictly.
    """
    marks = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    soft = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    if not isinstance(module, PreTrainedModel) or dtype == torch.float16:
        marks |= soft

    def held(name: str) -> torch.dtype:
        return torch.float32 if any(f".{mark}." in f".{name}." for mark in marks) else dtype

    kept = set(module.state_dict())
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: held(name) for name, tensor in tensors if tensor.is_floating_point() and name in kept}


def hold_in(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Let a skeleton's parameters have the dtypes they will be held in, since libraries ask them; returns these."""
    dtypes = held_dtypes(module, dtype)
    for path, held in dtypes.items():
        owner, _, name = path.rpartition(".")
        layer = module.get_submodule(owner)
        parameter = layer._parameters.get(name)
        if parameter is not None and parameter.dtype != held:
            layer._parameters[name] = nn.Parameter(parameter.to(held), requires_grad=False)
    if isinstance(module, PreTrainedModel):
        module.tie_weights()
    return dtypes


def in_files(
    module: nn.Module, component: ComponentInfo, dtype: torch.dtype, folded: Collection[str] = ()
) -> Slabs | None:
    """The slabs of a skeleton and where their bytes are, or None where the library must load it.

    That is so when the files do not hold each tensor under a name that only has to be mapped. `folded` names the layers
    that get slabs of their own.

    Raises:
        ModelFileError: a file is damaged.
    """
    division = divide(module, hold_in(module, dtype), folded)
    stored = by_name(module, component)
    tensors = dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])
    files = Files()
    sources: dict[str, Source] = {}
    for slab in division.slabs:
        for piece in slab.pieces:
            found = next((stored[name] for name in division.same[piece.path] if name in stored), None)
            if found is None:
                if tensors[piece.path].is_meta:
                    return None
                sources[piece.path] = MemoryTensor(tensors[piece.path])  # a buffer that no file holds
                continue
            if found.shape != piece.shape or not known(found.type):
                return None
            sources[piece.path] = files.dense(found)
    return division, HostStore(sources)


def packed(
    module: nn.Module,
    dense: Slabs,
    packed_sources: Mapping[str, Source],
    formats: Mapping[str, str],
    factors: Mapping[str, torch.Tensor],
) -> tuple[Slabs, Scratch]:
    """The slabs of a network whose `formats` stay packed, and what its packed layers decode into.

    The network gets packed layers, whose bytes come from `packed_sources` and are multiplied by `factors` when they
    have been decoded; all are by the weights' names. What is not packed comes from where it came from before.
    """
    scratch = Scratch()
    dtypes = {
        name: piece.dtype for slab in dense[0].slabs for piece in slab.pieces for name in dense[0].same[piece.path]
    }
    pack(module, formats, scratch, factors)
    division = divide(module, dtypes, [slab.name for slab in dense[0].folded])
    places = {name: dense[1].sources[path] for path, names in dense[0].same.items() for name in names}
    for name, source in packed_sources.items():
        places[f"{name.removesuffix('weight')}{PACKED}"] = source
        if name in factors:
            places[f"{name.removesuffix('weight')}{FACTORS}"] = MemoryTensor(factors[name])
    sources = {
        piece.path: next(places[name] for name in division.same[piece.path] if name in places)
        for slab in division.slabs
        for piece in slab.pieces
    }
    return (division, HostStore(sources)), scratch


def in_memory(module: nn.Module, folded: Collection[str] = ()) -> Slabs:
    """The slabs of a network whose weights are in host memory. `folded` layers get slabs of their own."""
    division = divide(module, folded=folded)
    return division, HostStore.in_memory(module, division)


def filled(module: nn.Module, slabs: Slabs) -> nn.Module:
    """A skeleton with its weights in host memory, those that are packed in its files decoded.

    Raises:
        ModelFileError: a file is damaged.
    """
    division, store = slabs
    for slab in division.slabs:
        buffer = torch.empty(slab.size, dtype=torch.uint8)
        store.fill(slab, buffer)
        for piece in slab.pieces:
            tensor = piece.view(buffer)
            shared = nn.Parameter(tensor, requires_grad=False)
            for path in division.same[piece.path]:
                owner, _, name = path.rpartition(".")
                layer = module.get_submodule(owner)
                if name in layer._parameters:
                    layer._parameters[name] = shared
                else:
                    layer._buffers[name] = tensor
    return module


def by_name(module: nn.Module, component: ComponentInfo) -> dict[str, Stored]:
    """The tensors in a component's files by their names in the network."""
    renamings = _renamings(module)
    if renamings is None:
        return stored_tensors(component)
    state: dict[str, Any] = module.state_dict()
    prefix = getattr(module, "base_model_prefix", None)
    return {
        rename_source_key(key, renamings, [], prefix, state)[0]: tensor
        for key, tensor in stored_tensors(component).items()
    }


def _renamings(module: nn.Module) -> list[WeightRenaming] | None:
    """How transformers renames what older files call otherwise; None for other libraries."""
    if not isinstance(module, PreTrainedModel):
        return None
    return [entry for entry in get_model_conversion_mapping(module) if isinstance(entry, WeightRenaming)]
