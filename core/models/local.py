"""The profile of a model folder: tensors and stored types from its files' headers, figures from a shipped profile.

A network of which a shipped profile has the class and every shape computes the same, whatever its weights: fine-tunes
and repacked models are planned without torch. core.generation.measure_folder makes the profile of any other model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from core.models.headers import ELEMENT_BYTES
from core.models.info import ComponentInfo, ModelInfo
from core.models.mixed import as_stored
from core.models.profile import ComponentProfile, Limits, ModelProfile, PhaseNeed, load, names
from core.models.stored import stored_tensors

_INTEGERS = {name for name in ELEMENT_BYTES if name[0] in "IUB" and name != "BF16"}  # position ids and the like


def profile_of(info: ModelInfo) -> ModelProfile | None:
    """The profile of a model on this machine, or None where no shipped profile has one of its networks.

    Raises:
        ModelFileError: a file is damaged; the sentence names it.
    """
    shipped = _shipped(info)
    components = {name: match(component, shipped) for name, component in info.networks.items()}
    alike = [
        profile for profile in shipped if profile.family == info.family and set(profile.components) == set(components)
    ]
    if not alike or None in components.values():
        return None
    # of a family's models the one that shares most networks: its defaults are the likeliest
    found = {name: component for name, component in components.items() if component is not None}
    like = max(alike, key=lambda profile: sum(_alike(found[name], profile.components[name]) for name in found))
    return with_defaults(msgspec.structs.replace(like, components=found), info)


def match(component: ComponentInfo, shipped: list[ModelProfile]) -> ComponentProfile | None:
    """The first shipped component of the same class and shapes, in the type that most of this one's bytes have."""
    shapes = stored_shapes(component)
    for profile in shipped:
        for candidate in profile.components.values():
            if candidate.class_name == component.class_name and _same(shapes, candidate):
                return as_stored(msgspec.structs.replace(candidate, source_format=stored_format(component)), component)
    return None


def with_defaults(profile: ModelProfile, info: ModelInfo) -> ModelProfile:
    """A profile under this model's name, with what its own folder says about sizes and steps."""
    said = {
        "width": info.defaults.width,
        "height": info.defaults.height,
        "frames": info.defaults.frames,
        "steps": info.defaults.steps,
        "guidance": info.defaults.guidance,
        "text_tokens": info.defaults.max_sequence_length,
    }
    makes, multiple = profile.makes, max(profile.defaults.size_multiple, info.size_multiple)
    if info.clip is not None:  # the models of such a family compress differently, and the profile may be another's
        makes, multiple = "video", info.size_multiple
        said |= {"spatial": info.spatial, "temporal": info.clip.temporal}
    limits: Limits = msgspec.structs.replace(
        profile.defaults,
        size_multiple=multiple,
        **{name: value for name, value in said.items() if value is not None},
    )
    return msgspec.structs.replace(profile, name=info.name, makes=makes, defaults=limits)


def stored_shapes(component: ComponentInfo) -> Counter[tuple[int, ...]]:
    """How many tensors of each shape its files hold. Raises ModelFileError where one is damaged."""
    return Counter(tensor.shape for tensor in stored_tensors(component).values() if tensor.type not in _INTEGERS)


def stored_format(component: ComponentInfo) -> str:
    """The type that most of its bytes have."""
    return max(component.types, key=lambda name: component.types[name])


def phases_like(info: ModelInfo) -> tuple[list[PhaseNeed], Limits] | None:
    """Phases and limits of a shipped model of the same family with the same components; None where there is none."""
    for profile in _shipped(info):
        if profile.family == info.family and set(profile.components) == set(info.networks):
            return profile.phases, profile.defaults
    return None


def _shipped(info: ModelInfo) -> list[ModelProfile]:
    """The shipped profiles, those of the model's family first."""
    return sorted((load(name) for name in names()), key=lambda profile: profile.family != info.family)


def _alike(one: ComponentProfile, other: ComponentProfile) -> bool:
    return msgspec.structs.replace(one, source_format="") == msgspec.structs.replace(other, source_format="")


def _same(shapes: Counter[tuple[int, ...]], candidate: ComponentProfile) -> bool:
    expected = Counter(shape for shape, _ in _expected(candidate))
    # files may keep tied embeddings twice
    tied = {shape for shape, role in _expected(candidate) if role == "embedding"}
    return not expected - shapes and set(shapes - expected) <= tied


def _expected(candidate: ComponentProfile) -> Iterator[tuple[tuple[int, ...], str]]:
    parts = [candidate.rest, *(candidate.kinds[kind] for kind, count in candidate.order for _ in range(count))]
    return ((tensor.shape, tensor.role) for part in parts for tensor in part.tensors)
