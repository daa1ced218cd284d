"""A profile of a network whose file has packed tensors or F8: which format each of them has. No torch."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from core.models import roles
from core.models.info import ComponentInfo
from core.models.profile import BlockKind, ComponentProfile, Tensor
from core.models.stored import Stored, stored_tensors
from core.precision.formats import FORMATS


def as_stored(profile: ComponentProfile, component: ComponentInfo) -> ComponentProfile:
    """The profile with the format of each tensor, where a component's files hold some packed or in F8.

    Blocks that differ in formats become kinds of their own. Where the names in the files do not tell which block is
    which, the profile stays as it is: planning then takes the commonest format for all that may be packed.

    Raises:
        ModelFileError: a file is damaged.
    """
    if not any(name in FORMATS and FORMATS[name].held_packed for name in component.types):
        return profile
    kind = roles.kind_of(component.name, component.class_name)
    groups: dict[roles.Key, dict[str, Stored]] = {}
    outside: dict[str, Stored] = {}
    for name, tensor in stored_tensors(component).items():
        block = roles.block_of(name, kind)
        (outside if block is None else groups.setdefault(block, {}))[name] = tensor
    running = [entry for entry, count in profile.order for _ in range(count)]
    if len(running) != len(groups):
        return profile
    kinds: dict[str, BlockKind] = {}
    order: list[tuple[str, int]] = []
    names: dict[tuple[str, tuple[str, ...]], str] = {}
    for entry, (_, group) in zip(running, sorted(groups.items()), strict=True):
        found = _with(profile.kinds[entry], group)
        if found is None:
            return profile
        key = (entry, tuple(tensor.stored for tensor in found.tensors))
        if key not in names:
            alike = sum(1 for known, _ in names if known == entry)
            names[key] = f"{entry}/{alike}" if alike else entry
            kinds[names[key]] = found
        if order and order[-1][0] == names[key]:
            order[-1] = (names[key], order[-1][1] + 1)
        else:
            order.append((names[key], 1))
    rest = _with(profile.rest, outside)
    return msgspec.structs.replace(profile, kinds=kinds, order=order, rest=rest or profile.rest)


def _with(kind: BlockKind, stored: Mapping[str, Stored]) -> BlockKind | None:
    """The tensors of a block with their formats; None where one is not there."""
    tensors = []
    for tensor in kind.tensors:
        found = [
            entry
            for name, entry in stored.items()
            if (name == tensor.name or name.endswith(f".{tensor.name}")) and entry.shape == tensor.shape
        ]
        if len(found) != 1 or found[0].type not in FORMATS:
            return None
        tensors.append(Tensor(tensor.name, tensor.shape, tensor.role, found[0].type))
        scale = found[0].scale
        if scale is not None and scale.elements > 1:
            tensors.append(Tensor(f"{tensor.name}_scale", scale.shape, "keep", "F32"))
    return msgspec.structs.replace(kind, tensors=tensors)
