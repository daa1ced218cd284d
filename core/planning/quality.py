"""How much each tensor of a component counts when its error is predicted: its size and its sensitivity.

Sensitivities are the family's rules (core.models.sensitivity), those that conversion allocates bytes by, too.
"""

from __future__ import annotations

from collections import OrderedDict

from core.messages import Phase
from core.models.profile import BlockKind, ComponentProfile, Tensor
from core.models.roles import CLIP, DENOISER, ENCODER, VAE
from core.models.sensitivity import sensitivity

Weighted = list[tuple[Tensor, float]]
"""Tensors, and for how many insensitive ones of their shape each counts."""

# By the identity of components, which are kept alive for it: a plan asks for each format of the same few components.
_known: OrderedDict[tuple[int, str, Phase], tuple[ComponentProfile, Weighted]] = OrderedDict()
_MOST_KNOWN = 64


def weighted(component: ComponentProfile, family: str, phase: Phase) -> Weighted:
    """The tensors of a component that runs in a phase; those of blocks of one kind once, for all places together."""
    key = (id(component), family, phase)
    if key not in _known:
        _known[key] = component, _weighted(component, family, _kind(component, phase))
        if len(_known) > _MOST_KNOWN:
            _known.popitem(last=False)
    return _known[key][1]


def _weighted(component: ComponentProfile, family: str, kind: str) -> Weighted:
    places: dict[str, list[int]] = {}
    blocks = 0
    for name, some in component.order:
        places.setdefault(name, []).extend(range(blocks, blocks + some))
        blocks += some
    result: Weighted = []

    def count(name: str, part: BlockKind, numbers: list[int]) -> None:
        for tensor in part.tensors:
            whole = f"{name}.{tensor.name}" if name else tensor.name
            factors = [sensitivity(whole, family, kind, (number, blocks)) for number in numbers]
            result.append((tensor, sum(factors) if name else sensitivity(whole, family, kind, None)))

    count("", component.rest, [])
    for name, numbers in places.items():
        count(name, component.kinds[name], numbers)
    return result


def _kind(component: ComponentProfile, phase: Phase) -> str:
    if component.class_name.startswith("CLIP"):
        return CLIP
    return {Phase.ENCODE: ENCODER, Phase.DENOISE: DENOISER}.get(phase, VAE)
