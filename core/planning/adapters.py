"""What adapters (LoRA) add to a component's bytes, block by block, as their side branches lie beside it."""

from __future__ import annotations

import msgspec

from core.models.profile import ComponentProfile
from core.planning.job import Beside


class Added(msgspec.Struct, frozen=True):
    """Bytes for one block of each kind, for what is resident outside of blocks, and for what is folded away."""

    kinds: dict[str, int]
    rest: int
    folded: int


def spread(component: ComponentProfile, numbers: int, rank: int, wide: int) -> Beside:
    """Adapters of which only their size is known: so many numbers of `wide` bytes, evenly beside all blocks."""
    blocks = sum(count for _, count in component.order)
    size = numbers * wide
    each = -(-size // max(1, blocks) // 256) * 256
    return Beside(
        blocks=(each,) * blocks,
        rest=0 if blocks else size,
        folded_blocks=(0,) * blocks,
        share=numbers / max(1, component.parameters),
        width=rank,
    )


def added(component: ComponentProfile, beside: Beside, fold: bool) -> Added:
    """The bytes of adapters where they are held. Blocks of a kind count as the one with the most.

    Beside modulation they are folded away with it. Where the profile knows other blocks than the network has, all count
    as resident.
    """
    blocks = beside.blocks if fold else tuple(map(sum, zip(beside.blocks, beside.folded_blocks, strict=True)))
    rest = beside.rest + (0 if fold else beside.folded_rest)
    folded = sum(beside.folded_blocks) + beside.folded_rest if fold else 0
    order = [kind for kind, count in component.order for _ in range(count)]
    if len(order) != len(blocks):
        return Added({}, rest + sum(blocks), folded)
    kinds = dict.fromkeys(order, 0)
    for kind, size in zip(order, blocks, strict=True):
        kinds[kind] = max(kinds[kind], size)
    return Added(kinds, rest, folded)
