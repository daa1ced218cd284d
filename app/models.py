"""The models that can be chosen, and what the window needs to know of the one in use. Reads files, loads no weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.models.info import Defaults

if TYPE_CHECKING:
    from core.models.catalogue import Match

STARTER = "starter"
FILES = (".gguf", ".safetensors")
"""What the names of model files end in."""


def is_model(path: Path) -> bool:
    """Whether a dropped folder or file is meant as a model and not as a picture."""
    return path.is_dir() or path.suffix.lower() in FILES


class Models(Protocol):
    """What the studio asks about models."""

    defaults: Defaults
    vocabulary: dict[str, list[str]]

    def names(self) -> list[str]:
        """The models known here, the starter first."""

    def use(self, name: str) -> None:
        """Read a model's defaults and vocabulary. Raises ResidencyError when it cannot be read."""

    def add(self, path: Path) -> str:
        """Remember a model folder or file and return its name. Raises ResidencyError when it is none.

        Reads files, and is called from a thread.
        """

    def match(self, name: str, fingerprint: str) -> Match:
        """The known model that made a result. Reads files, and is called from a thread."""


class InstalledModels:
    """The catalogue of `core.models`, read when first asked, which is after the first frame."""

    def __init__(self) -> None:
        self.defaults = Defaults()
        self.vocabulary: dict[str, list[str]] = {}

    def names(self) -> list[str]:
        """The models known here; the starter alone when even that is missing, so that its absence is told."""
        from core.models import catalogue

        try:
            return list(catalogue.installed())
        except FileNotFoundError:
            return [STARTER]

    def use(self, name: str) -> None:
        """Read a model's own values."""
        from core.models import catalogue

        self.defaults, self.vocabulary = Defaults(), {}
        info = catalogue.find(name)
        self.defaults, self.vocabulary = info.defaults, info.vocabulary

    def add(self, path: Path) -> str:
        """As `core.models.catalogue.add`."""
        from core.models import catalogue

        return catalogue.add(path).name

    def match(self, name: str, fingerprint: str) -> Match:
        """As `core.models.catalogue.match`."""
        from core.models import catalogue

        return catalogue.match(name, fingerprint)
