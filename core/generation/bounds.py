"""How large a picture or clip a network takes at most, as its config says, and sizes to measure that stay within."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.generation.dummy_inputs import Size

# Multiples of this many positions suit every patching that there is.
_PATCH = 2


def largest(config: Any) -> tuple[int | None, int | None]:
    """(latent frames, latent positions of an edge) that a network has positions for; None where there is no end.

    Learned or tabulated positions end: SD3's `pos_embed_max_size` patches an edge (PatchEmbed.cropped_pos_embed), Wan's
    `rope_max_seq_len` patches an axis (WanRotaryPosEmbed).
    """
    edge = getattr(config, "pos_embed_max_size", None)
    if edge is not None:
        return None, int(edge) * int(config.patch_size)
    axis = getattr(config, "rope_max_seq_len", None)
    if axis is not None:
        frames, rows, columns = config.patch_size
        return int(axis) * int(frames), int(axis) * min(int(rows), int(columns))
    return None, None


def within(sizes: Sequence[Size], config: Any) -> tuple[Size, ...]:
    """The sizes, all shrunk by one factor where the largest of them is more than the network takes.

    One factor keeps them apart from each other, so that a polynomial can still be told from them.
    """
    most_frames, most_edge = largest(config)
    frames = max(size.frames for size in sizes)
    edge = max(max(size.height, size.width) for size in sizes)
    by_time = 1.0 if most_frames is None else min(1.0, most_frames / frames)
    by_edge = 1.0 if most_edge is None else min(1.0, most_edge / edge)
    if by_time == by_edge == 1.0:
        return tuple(sizes)
    return tuple(
        Size(max(1, int(size.frames * by_time)), _edge(size.height, by_edge), _edge(size.width, by_edge), size.tokens)
        for size in sizes
    )


def _edge(positions: int, share: float) -> int:
    return max(_PATCH, int(positions * share) // _PATCH * _PATCH) if share < 1.0 else positions
