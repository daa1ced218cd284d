"""What a model is, as plain data: its family, its components with their bytes, and its own defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


class ComponentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a model's index. `types` counts stored bytes by type; all counts are 0 for what has no weights.

    `placed` says where each tensor is (`core.models.stored.Stored` by name), where its files call them otherwise.
    """

    name: str
    library: str
    class_name: str
    files: tuple[str, ...] = ()
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    types: dict[str, int] = {}
    placed: dict[str, Any] | None = None

    @property
    def format(self) -> str:
        """The type that most of its bytes are stored in."""
        return max(self.types, key=lambda name: self.types[name], default="F32")

    @property
    def is_network(self) -> bool:
        """Whether it has weights (a tokenizer or a scheduler has none)."""
        return self.tensors > 0


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a request means when it does not say. None leaves it to the family's own default in diffusers."""

    steps: int | None = None
    draft_steps: int = 4
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    guidance: float | None = None
    max_sequence_length: int | None = None


class Clip(msgspec.Struct, frozen=True):
    """What clips a model makes: frames a second, and a number of frames that is a multiple of `temporal`, and one."""

    fps: float
    temporal: int


class PreviewMap(msgspec.Struct, frozen=True):
    """A linear map from latents to colours: `rgb = latents @ latent_rgb_factors + latent_rgb_bias`, in 0..1."""

    latent_rgb_factors: list[tuple[float, float, float]]
    latent_rgb_bias: tuple[float, float, float]


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a model folder's optional `residency.json`."""

    name: str = ""
    defaults: Defaults = Defaults()
    preview: PreviewMap | None = None
    vocabulary: dict[str, list[str]] = {}


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model on this machine.

    `family` is the class of its diffusers pipeline. `fingerprint` names its content wherever it lies: a SHA-256 over
    every config and tokenizer file and over the size, the header and evenly spaced samples of every weight file, cheap
    for 40 GB. `identity` names these files here and now: it changes with any file's path, size or time, and is what
    everything that was made of them is remembered by. `file` is the one file that a whole model is in; `path` is then
    the folder that its index, configs and tokenizers were unpacked into. `base` is the model that such a file has these
    from, and whatever networks it lacks, if it holds weights alone.
    """

    name: str
    path: Path
    family: str
    components: dict[str, ComponentInfo]
    fingerprint: str
    identity: str
    size_multiple: int
    spatial: int = 8  # pixels of an edge per latent position
    clip: Clip | None = None  # None: it makes stills
    defaults: Defaults = Defaults()
    preview: PreviewMap | None = None
    vocabulary: dict[str, list[str]] = {}
    index: dict[str, Any] = {}
    file: Path | None = None
    base: ModelInfo | None = None

    @property
    def source(self) -> Path:
        """What a person names it by: its file or its folder."""
        return self.file or self.path

    def file_of(self, network: str) -> Path | None:
        """The one file that a network is in, maybe among others; None where it has a folder of its own."""
        if self.base is not None and self.components[network] is self.base.components.get(network):
            return self.base.file_of(network)
        return self.file

    @property
    def networks(self) -> dict[str, ComponentInfo]:
        """The components that have weights."""
        return {name: component for name, component in self.components.items() if component.is_network}
