"""From a picture or clip in memory to a result: its hash, its record, its file."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from PIL import Image

from core import __version__
from core.hardware.interface import Accelerator
from core.library import metadata
from core.messages import Adapter, ComponentUse, Finished, Init, Prediction, Request, Result
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
    loras: tuple[Adapter, ...] = ()
    init: Init | None = None
    made_steps: int | None = None


def pixels_sha256(*frames: Image.Image) -> str:
    """SHA-256 of RGB images' bytes, row by row, one image after the other."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.tobytes())
    return digest.hexdigest()


def finish(request: Request, model: ModelInfo, frames: Sequence[Image.Image], facts: Facts) -> Finished:
    """Make the result of a resolved request, and write its file when it asks for one: a PNG, or an MP4 of more frames.

    Raises:
        UserError: the file cannot be written.
    """
    first, fps = frames[0], model.clip.fps if model.clip is not None else None
    result = Result(
        id=request.id,
        file=request.out,
        pixels_sha256=pixels_sha256(*frames),
        width=first.width,
        height=first.height,
        frames=len(frames),
        fps=fps,
        model=model.name,
        family=model.family,
        fingerprint=model.fingerprint,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        steps=request.steps or 0,
        made_steps=facts.made_steps,
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
        loras=facts.loras,
        init=facts.init,
    )
    if not request.out:
        return Finished(request.id, result, first.tobytes())
    if len(frames) == 1 or fps is None:
        metadata.write_png(Path(request.out), first, result)
    else:
        from core.generation.video import write_mp4  # FFmpeg's libraries, which pictures do not need

        write_mp4(Path(request.out), frames, fps, result)
    return Finished(request.id, msgspec.structs.replace(result, file=request.out))
