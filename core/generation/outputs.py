"""From a picture in memory to a result: its hash, its record, its file."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from PIL import Image

from core import __version__
from core.hardware.interface import Accelerator
from core.library import metadata
from core.messages import ComponentUse, Finished, Prediction, Request, Result
from core.models.info import ModelInfo

_LIBRARIES = ("torch", "diffusers", "transformers", "safetensors")


@dataclass
class Facts:
    """What was measured while a request ran."""

    accelerator: Accelerator
    budget_bytes: int
    peak_device_bytes: int
    link_bytes: int
    seconds: dict[str, float]
    guidance: float | None
    scheduler: str
    predicted: Prediction
    components: dict[str, ComponentUse]
    reasons: list[str]
    tiling: str  # off, or the edge of a tile in pixels


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 of an RGB image's bytes, row by row."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def finish(request: Request, model: ModelInfo, image: Image.Image, facts: Facts) -> Finished:
    """Make the result of a resolved request, and write its file when it asks for one.

    Raises:
        UserError: the file cannot be written.
    """
    result = Result(
        id=request.id,
        file=request.out,
        pixels_sha256=pixels_sha256(image),
        width=image.width,
        height=image.height,
        model=model.name,
        family=model.family,
        fingerprint=model.fingerprint,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        steps=request.steps or 0,
        guidance=facts.guidance,
        scheduler=facts.scheduler,
        draft=request.draft,
        accelerator=facts.accelerator.kind,
        device=facts.accelerator.name,
        seconds=facts.seconds,
        predicted=facts.predicted,
        link_bytes=facts.link_bytes,
        budget_bytes=facts.budget_bytes,
        peak_device_bytes=facts.peak_device_bytes,
        components=facts.components,
        reasons=facts.reasons,
        tiling=facts.tiling,
        versions={
            "residency": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        how=request.how,
    )
    if not request.out:
        return Finished(request.id, result, image.tobytes())
    metadata.write_png(Path(request.out), image, result)
    return Finished(request.id, msgspec.structs.replace(result, file=request.out))
