"""What is known of a family beside its files: what a request means where neither it nor the model's folder says.

Families are called by their diffusers pipeline. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from core.models.info import Clip, Defaults


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """`when` is what the folder's index must say besides; `fps` is given for what makes clips."""

    when: Mapping[str, Any] = {}
    defaults: Defaults
    fps: float | None = None


# The first that fits counts.
_FAMILIES: dict[str, tuple[_Known, ...]] = {
    "WanPipeline": (
        # Wan-AI/Wan2.2-TI2V-5B-Diffusers, the card's example; the only one of them whose tokens have their own times
        _Known(
            when={"expand_timesteps": True},
            defaults=Defaults(width=1280, height=704, frames=121, steps=50),
            fps=24,
        ),
        # WanPipeline.__call__ (diffusers 0.42) and the 16 frames a second of its example
        _Known(defaults=Defaults(width=832, height=480, frames=81, steps=50), fps=16),
    ),
    # LTXPipeline.__call__ (diffusers 0.42), whose frame_rate is also what its positions are reckoned with
    "LTXPipeline": (_Known(defaults=Defaults(width=704, height=512, frames=161, steps=50), fps=25),),
    # Flux2Pipeline.__call__; black-forest-labs/FLUX.2-klein-4B, the card's example
    "Flux2Pipeline": (_Known(defaults=Defaults(steps=50)),),
    "Flux2KleinPipeline": (
        _Known(when={"is_distilled": True}, defaults=Defaults(steps=4)),
        _Known(defaults=Defaults(steps=50)),
    ),
}


def defaults_of(family: str, index: Mapping[str, Any], own: Defaults) -> Defaults:
    """A model's `own` defaults, and the family's for what these leave open."""
    known = _known(family, index)
    if known is None:
        return own
    filled = {
        name: value if value is not None else getattr(known.defaults, name)
        for name, value in msgspec.structs.asdict(own).items()
    }
    return Defaults(**filled)


def clip_of(family: str, index: Mapping[str, Any], temporal: int) -> Clip | None:
    """What clips a model of the family makes, if its VAE has a latent frame for `temporal` frames; None for stills."""
    known = _known(family, index)
    return None if known is None or known.fps is None else Clip(fps=known.fps, temporal=temporal)


def _known(family: str, index: Mapping[str, Any]) -> _Known | None:
    entries = _FAMILIES.get(family, ())
    return next((entry for entry in entries if all(index.get(k) == v for k, v in entry.when.items())), None)
