"""Tells from the names and shapes of tensors what they belong to: components and family. No torch.

The rules are data, resources/families/recognise.json, in which each cites its source. Families are called by their
diffusers pipeline.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import msgspec

from core.resources import resource


class Prefix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tensors whose names begin so belong to a component of a file that holds several."""

    prefix: str
    component: str
    source: str


class Marks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names that a network has, with their shapes (null fits any), and names that it must not have."""

    tensors: dict[str, tuple[int | None, ...] | None]
    without: tuple[str, ...] = ()
    source: str
    family: str = ""
    network: str = ""  # transformer or unet
    architecture: str = ""  # what llama.cpp and ComfyUI-GGUF call the family
    component: str = ""


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first that fits counts, in each list."""

    prefixes: tuple[Prefix, ...]
    families: tuple[Marks, ...]
    parts: tuple[Marks, ...]


class Recognised(msgspec.Struct, frozen=True):
    """`components` by tensor; `family` and `architecture` are empty where no rule fits."""

    family: str
    architecture: str
    components: dict[str, str]
    inner: dict[str, str]
    """Each tensor's name in its network, without the prefix of a file that holds several."""


@functools.cache
def rules() -> Rules:
    """The shipped rules."""
    return msgspec.json.decode(resource("families", "recognise.json").read_bytes(), type=Rules)


def recognise(shapes: Mapping[str, tuple[int, ...]], alone: str = "model") -> Recognised:
    """What tensors belong to, from their names and shapes. `alone` names a single network that no rule knows."""
    components: dict[str, str] = {}
    inner: dict[str, str] = {}
    for name in shapes:
        rule = next((rule for rule in rules().prefixes if name.startswith(rule.prefix)), None)
        components[name] = rule.component if rule else ""
        inner[name] = name.removeprefix(rule.prefix) if rule else name
    prefixed = any(component == "diffusion" for component in components.values())
    network = {inner[name]: shape for name, shape in shapes.items() if components[name] == "diffusion" or not prefixed}
    family = _first(rules().families, network)
    part = None if family or prefixed else _first(rules().parts, network)
    main = family.network if family else part.component if part else "diffusion" if prefixed else alone
    for name, component in components.items():
        if component == "diffusion" or not component:
            components[name] = main if component or not prefixed else "other"
    return Recognised(family.family if family else "", family.architecture if family else "", components, inner)


def _first(marks: Iterable[Marks], shapes: Mapping[str, tuple[int, ...]]) -> Marks | None:
    return next((entry for entry in marks if _fits(entry, shapes)), None)


def _fits(marks: Marks, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    for name, expected in marks.tensors.items():
        shape = shapes.get(name)
        if shape is None:
            return False
        if expected is not None and (
            len(shape) != len(expected)
            or any(wanted not in (None, extent) for wanted, extent in zip(expected, shape, strict=True))
        ):
            return False
    return not any(name in shapes for name in marks.without)
