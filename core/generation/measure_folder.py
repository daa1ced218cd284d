"""The profile of any model folder: taken from a shipped one where that fits, else measured on the meta device."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from core import folders
from core.files import write_atomically
from core.generation.measure import measure
from core.generation.parts import parts_of
from core.messages import ModelFileError, Phase
from core.models.info import ModelInfo
from core.models.local import phases_like, profile_of, with_defaults
from core.models.mixed import as_stored
from core.models.profile import Limits, ModelProfile, PhaseNeed, read

# Of what is measured: a profile that was kept by an older program lacks what plans use now.
_VERSION = 3


def profile_of_folder(info: ModelInfo, *, cache: Path | None = None) -> ModelProfile:
    """The profile of a model on this machine.

    Measuring takes seconds for each network, so what was measured is kept by the model's fingerprint.

    Args:
        cache: the folder that profiles are kept in; the program's own cache where it is not given.

    Raises:
        UserError: one of its networks is of a class that cannot be measured.
        ModelFileError: a file is missing or damaged, or a config does not fit its class.
    """
    known = profile_of(info)
    if known is not None:
        return known
    file = (cache or folders.cache() / "profiles") / f"{info.fingerprint}-{_VERSION}.json"
    if file.is_file():
        return with_defaults(_as_stored(read(file), info), info)
    try:
        components = {name: measure(part) for name, part in parts_of(info).items()}
    except ValueError as error:
        raise ModelFileError(f"A network of {info.name} in {info.path} cannot be built: {error}.") from error
    phases, limits = phases_like(info) or (_phases(list(components)), _limits(info))
    profile = ModelProfile(
        name=info.name,
        title=info.name,
        family=info.family,
        defaults=limits,
        components=components,
        phases=phases,
        sources={"components": "measured from the configs in the model's folder"},
    )
    try:
        write_atomically(file, lambda stream: stream.write(msgspec.json.encode(profile)))
    except OSError:
        pass  # it is measured again next time
    return with_defaults(_as_stored(profile, info), info)


def _as_stored(profile: ModelProfile, info: ModelInfo) -> ModelProfile:
    """With the formats of tensors that a file has packed, which are the file's and not what was measured."""
    components = {name: as_stored(part, info.components[name]) for name, part in profile.components.items()}
    return msgspec.structs.replace(profile, components=components)


def _phases(names: list[str]) -> list[PhaseNeed]:
    """What the names of diffusers' components say: encoders, what denoises and what steers that, VAE and vocoder."""
    steering = [name for name in names if re.fullmatch(r"controlnet(_\d+)?", name)]
    denoisers = steering + [name for name in names if re.fullmatch(r"(transformer|unet|prior)(_\d+)?", name)]
    decoders = [name for name in names if re.fullmatch(r"\w*vae|vocoder", name)]
    encoders = [name for name in names if name not in (*denoisers, *decoders)]
    return [
        PhaseNeed(phase=Phase.ENCODE, label="encode", components=encoders),
        PhaseNeed(phase=Phase.DENOISE, label="denoise", components=denoisers, passes="steps", guided=True),
        PhaseNeed(phase=Phase.DECODE, label="decode", components=decoders),
    ]


def _limits(info: ModelInfo) -> Limits:
    """What is known of a picture model without its pipeline: diffusers' common defaults."""
    return Limits(width=1024, height=1024, steps=50, spatial=info.spatial)
