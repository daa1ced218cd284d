"""Which models start from a picture, how far they go from it, and of which size the result is. No torch.

Families are called by their diffusers pipeline. Strengths are the defaults of the stock image-to-image pipelines
(diffusers 0.42), and so is how a strength becomes a number of steps.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import msgspec

from core import folders
from core.messages import Init, Request, UserError
from core.models.info import ModelInfo

# A picture may have so many times the pixels that the model makes by itself; beyond it is scaled down. Assumed: models
# keep what they learnt at about twice the edge when a picture shows them where everything is.
MOST_PIXELS = 4


class _Family(NamedTuple):
    """`cut` says that a part of a step is left out instead of made whole."""

    words: str
    strength: float
    cut: bool = False


_FAMILIES = {
    "FluxPipeline": _Family("Flux", 0.6),
    "StableDiffusionXLPipeline": _Family("SDXL", 0.3, cut=True),
    "StableDiffusion3Pipeline": _Family("SD3", 0.6),
    "QwenImagePipeline": _Family("Qwen-Image", 0.6),
    "ZImagePipeline": _Family("Z-Image", 0.6),
}


def families() -> list[str]:
    """The families that can start from a picture."""
    return list(_FAMILIES)


def can_start(family: str) -> bool:
    """Whether models of a family can start from a picture."""
    return family in _FAMILIES


def check_starts(family: str, name: str) -> None:
    """Raise UserError where a family's models cannot start from a picture."""
    if not can_start(family):
        *others, last = (known.words for known in _FAMILIES.values())
        raise UserError(
            f"{name} is a {family}, which cannot start from a picture here; {', '.join(others)} and {last} models can."
        )


def strength_of(family: str, strength: float | None) -> float:
    """The strength asked for, or the family's own. Raises UserError where there is no such strength."""
    if strength is None:
        return _FAMILIES[family].strength
    if not (math.isfinite(strength) and 0 < strength <= 1):
        raise UserError(
            f"A strength of {strength:g} is not possible; give more than 0, which keeps the picture, up to 1, which "
            "keeps nothing of it."
        )
    return strength


def steps_made(family: str, steps: int, strength: float) -> int:
    """How many of so many steps are made from a picture. Raises UserError where it is none."""
    most = min(steps * strength, steps)
    made = int(most) if _FAMILIES[family].cut else steps - int(max(steps - most, 0))
    if made < 1:
        least = math.ceil(100 / steps) / 100
        raise UserError(f"A strength of {strength:g} leaves none of {steps} steps; give {least:g} or more.")
    return made


def made_by(request: Request, family: str) -> int:
    """How many steps a resolved request makes."""
    steps = request.steps or 1
    if request.init is None or not can_start(family):
        return steps
    return steps_made(family, steps, strength_of(family, request.init.strength))


def size_from(picture: tuple[int, int], multiple: int, own: tuple[int, int]) -> tuple[int, int]:
    """The size of a result: the picture's, to the nearest multiple; scaled down where it has far more pixels.

    Args:
        picture: (width, height) of the picture.
        multiple: what a model's sizes are multiples of.
        own: the model's default size, of which the result may have MOST_PIXELS times the pixels.
    """
    scale = min(1.0, math.sqrt(MOST_PIXELS * own[0] * own[1] / (picture[0] * picture[1])))
    width, height = (max(multiple, math.floor(side * scale / multiple + 0.5) * multiple) for side in picture)
    return width, height


def start(init: Init, family: str, name: str, multiple: int, own: tuple[int, int]) -> tuple[Init, tuple[int, int]]:
    """What a model starts from with nothing left open, and the size of what is made unless another is asked for.

    Args:
        family: of the model, whose `name` is said where it cannot.
        multiple: what its sizes are multiples of.
        own: its default size.

    Raises:
        UserError: the model's family cannot, the picture cannot be read, or the strength is none.
    """
    from core.library import pictures  # and Pillow, which most of what imports this can do without

    check_starts(family, name)
    path = folders.user_path(init.file)
    size = size_from(pictures.size_of(path), multiple, own)
    return msgspec.structs.replace(init, file=str(path), strength=strength_of(family, init.strength)), size


def started(request: Request, model: ModelInfo, own: tuple[int, int]) -> Request:
    """A request with its strength and its size filled in from the picture that it starts from. Raises as `start`."""
    if request.init is None:
        return request
    init, size = start(request.init, model.family, model.name, model.size_multiple, own)
    width, height = request.width, request.height
    if width is None and height is None:
        width, height = size
    return msgspec.structs.replace(request, init=init, width=width, height=height)


def words_of(request: Request, family: str) -> str:
    """What a resolved request starts from, as a reason of its plan; empty where it starts from noise."""
    if request.init is None:
        return ""
    return words(request.init, strength_of(family, request.init.strength), made_by(request, family), request.steps or 1)


def words(init: Init, strength: float, made: int, steps: int) -> str:
    """What a result starts from, in words."""
    return f"it starts from {Path(init.file).name} with a strength of {strength:g}: {made} of {steps} steps are made"
