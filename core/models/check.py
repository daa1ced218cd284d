"""Fills a request's gaps with the model's defaults, and checks it before anything is loaded."""

from __future__ import annotations

import math

import msgspec

from core.messages import Request, UserError
from core.models.info import ModelInfo
from core.models.starting import made_by, started

# What a request may ask for at most, and so a plan of it.
MAX_STEPS = 1000
MAX_BATCH = 64
MAX_GUIDANCE = 100.0
MAX_FRAMES = 10_000
MAX_SIDE = 8192
MAX_PIXELS = 4096 * 4096
MAX_SEED = 2**63 - 1
MAX_PROMPT_CHARACTERS = 20_000
MAX_WEIGHT = 10.0  # of a LoRA, either way

# What diffusers' own pipelines default to where neither the model nor the request says anything.
_FAMILY_SIZE = 1024
_FAMILY_STEPS = 28


def resolve(request: Request, model: ModelInfo) -> Request:
    """The request with every default filled in.

    Raises:
        UserError: something in it cannot be done; the sentence says what to change.
    """
    defaults = model.defaults
    own = (defaults.width or _FAMILY_SIZE, defaults.height or _FAMILY_SIZE)
    request = started(request, model, own)
    steps = defaults.draft_steps if request.draft and request.steps is None else request.steps
    resolved = msgspec.structs.replace(
        request,
        steps=steps if steps is not None else defaults.steps or _FAMILY_STEPS,
        width=request.width if request.width is not None else own[0],
        height=request.height if request.height is not None else own[1],
        frames=_frames(request, model),
        guidance=request.guidance if request.guidance is not None else defaults.guidance,
    )
    _check(resolved, model.size_multiple)
    made_by(resolved, model.family)  # a strength may leave no step
    return resolved


def _frames(request: Request, model: ModelInfo) -> int:
    """How many frames: a still is one, and so is a draft of a clip unless it is asked for more."""
    clip, frames = model.clip, request.frames
    if frames is None:
        return 1 if clip is None or request.draft else model.defaults.frames or 1
    if clip is None:
        if frames != 1:
            raise UserError(f"{model.name} makes still pictures, not {frames} frames; leave the frames away.")
    elif not 1 <= frames <= MAX_FRAMES or (frames - 1) % clip.temporal:
        steps = min(round((max(frames, 1) - 1) / clip.temporal), (MAX_FRAMES - 1) // clip.temporal)
        raise UserError(
            f"{model.name} cannot make {frames} frames: it makes one, or a multiple of {clip.temporal} and one; "
            f"the nearest is {steps * clip.temporal + 1}."
        )
    return frames


def _check(request: Request, multiple: int) -> None:
    width, height, steps = request.width or 0, request.height or 0, request.steps or 0
    if not request.prompt.strip():
        raise UserError("The prompt is empty; say what the picture should show.")
    if any("\ud800" <= letter <= "\udfff" for letter in request.prompt + request.negative_prompt):
        raise UserError("The prompt holds bytes that are no text; type it again.")
    if len(request.prompt) + len(request.negative_prompt) > MAX_PROMPT_CHARACTERS:
        raise UserError(f"The prompt is longer than {MAX_PROMPT_CHARACTERS} characters; shorten it.")
    if width < multiple or height < multiple or width % multiple or height % multiple:
        near = f"{_nearest(width, multiple)}x{_nearest(height, multiple)}"
        raise UserError(f"The size {width}x{height} is not a multiple of {multiple}; the nearest is {near}.")
    check_size(width, height)
    check_steps(steps)
    if not 0 <= request.seed <= MAX_SEED:
        raise UserError(f"The seed {request.seed} is out of range; choose from 0 to {MAX_SEED}.")
    for lora in request.loras:
        if not (math.isfinite(lora.weight) and abs(lora.weight) <= MAX_WEIGHT):
            raise UserError(f"A weight of {lora.weight} for {lora.file} makes no sense; choose from -10 to 10.")
    check_guidance(request.guidance)


def check_size(width: int, height: int) -> None:
    """Raise UserError for a size that is too large."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UserError(f"The size {width}x{height} is too large; at most {MAX_SIDE} a side and 16 megapixels.")


def check_steps(steps: int) -> None:
    """Raise UserError for a number of steps that cannot be done."""
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"{steps} steps are not possible; choose from 1 to {MAX_STEPS}.")


def check_guidance(guidance: float | None) -> None:
    """Raise UserError for a guidance that makes no sense; None is the model's own."""
    if guidance is not None and not 0.0 <= guidance <= MAX_GUIDANCE:
        raise UserError(f"A guidance of {guidance:g} makes no sense; choose from 0 to {MAX_GUIDANCE:g}.")


def _nearest(size: int, multiple: int) -> int:
    return min(max(multiple, round(size / multiple) * multiple), MAX_SIDE // multiple * multiple)
