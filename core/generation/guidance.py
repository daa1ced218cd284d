"""How each family is told to follow its prompt: a number for the transformer, or a guider that compares two passes.

Modular pipelines keep the second in a `guider` component. The stock pipelines of some families decide by their inputs
whether and how to guide; this module does as they do, so that a request means the same here and there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.models.guidance import FROM_ZERO, ONLY_WITH_NEGATIVE, guides

# These encode no negative prompt unless there is one, and their guider would then compare the prompt with itself.
_NEEDS_EMPTY_NEGATIVE = ("StableDiffusion3Pipeline",)


@dataclass(frozen=True)
class Guidance:
    """`guider` replaces the pipeline's (None where it has none), `negative_prompt` is the input for it.

    `scale` is what will be in force, None where nothing guides; `conditions` is how many passes a step makes.
    """

    guider: Any
    negative_prompt: str | None
    scale: float | None
    conditions: int


def guidance(family: str, default: Any, scale: float | None, negative_prompt: str) -> Guidance:
    """The guidance of a request.

    Args:
        family: the class of the stock pipeline.
        default: the guider that the modular pipeline came with, or None.
        scale: what the request asks for; None leaves it to the default.
        negative_prompt: what the request does not want to see; may be empty.
    """
    if default is None:
        return Guidance(None, negative_prompt or None, scale, 1)
    options: dict[str, Any] = {} if scale is None else {"guidance_scale": scale}
    if scale is not None or family in ONLY_WITH_NEGATIVE:
        asked = scale if scale is not None else float(default.guidance_scale)
        options["enabled"] = guides(family, asked, negative=bool(negative_prompt))
    if family in FROM_ZERO and scale is not None:
        options["use_original_formulation"] = True
    guider = default.new(**options)
    negative: str | None = negative_prompt or ("" if family in _NEEDS_EMPTY_NEGATIVE else None)
    conditions = int(guider.num_conditions)
    return Guidance(guider, negative, float(guider.guidance_scale) if conditions > 1 else None, conditions)
