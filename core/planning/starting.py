"""A job that starts from a picture: one phase more, and fewer steps."""

from __future__ import annotations

import msgspec

from core.messages import Init, Phase
from core.models.profile import ModelProfile, PhaseNeed
from core.models.starting import check_starts, steps_made, strength_of, words
from core.planning.job import Job


def from_picture(job: Job, init: Init, *, pictured: bool = False) -> Job:
    """A job that starts from a picture instead of noise; `pictured` says that the picture's latents are cached.

    Raises:
        UserError: the model's family cannot, or the strength is none or leaves no step.
    """
    family = job.model.family
    model = with_image_encode(job.model)
    strength = strength_of(family, init.strength)
    made = steps_made(family, job.steps, strength)
    said = words(init, strength, made, job.steps)
    return msgspec.structs.replace(job, model=model, steps=made, started=said, pictured=pictured)


def with_image_encode(model: ModelProfile) -> ModelProfile:
    """A model with the phase in which its VAE encodes a picture, before it denoises.

    Raises:
        UserError: the model's family cannot start from a picture.
    """
    check_starts(model.family, model.title)
    encoders = [
        name
        for need in model.phases
        if need.phase is Phase.DECODE
        for name in need.components
        if model.components[name].encode_flops
    ]
    place = next(number for number, need in enumerate(model.phases) if need.phase is Phase.DENOISE)
    added = PhaseNeed(phase=Phase.IMAGE_ENCODE, label=Phase.IMAGE_ENCODE.value, components=encoders)
    return msgspec.structs.replace(model, phases=[*model.phases[:place], added, *model.phases[place:]])
