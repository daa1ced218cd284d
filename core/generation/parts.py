"""Reads the configs that models are measured from: those that ship, and those of a model folder on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from core.messages import ModelFileError, UserError
from core.models.folder import read_folder
from core.models.info import ModelInfo
from core.models.profile import Limits, ModelProfile, PhaseNeed
from core.resources import resource


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One component before it is measured. `source` says where its config comes from."""

    library: str
    class_name: str
    config: dict[str, Any]
    source_format: str = "BF16"
    source: str = ""


class _Card(msgspec.Struct, frozen=True, kw_only=True):
    """model.json of a folder of configs: a profile without what is measured.

    `components` maps names to config files, or `folder` is a model folder that ships and has them.
    """

    title: str
    family: str
    licence: str = ""
    makes: str = "image"
    defaults: Limits
    components: dict[str, str] = {}
    folder: str = ""
    phases: list[PhaseNeed]
    sources: dict[str, str] = {}


def model_of(name: str) -> tuple[ModelProfile, dict[str, Part]]:
    """A model whose configs ship: its profile, as yet without components, and what those are made from.

    Raises:
        UserError: there is no such model.
        ModelFileError: a file of it is damaged.
    """
    folder = resource("models", "configs") / name
    if not (folder / "model.json").is_file():
        raise UserError(f"There are no configs of {name}; known: {', '.join(known())}.")
    card = _read(folder / "model.json", _Card)
    parts = {component: _read(folder / f"{file}.json", Part) for component, file in card.components.items()}
    if card.folder:
        parts |= parts_of(read_folder(resource(*card.folder.split("/"))))
    profile = ModelProfile(
        name=name,
        title=card.title,
        family=card.family,
        licence=card.licence,
        makes=card.makes,
        defaults=card.defaults,
        components={},
        phases=card.phases,
        sources=card.sources,
    )
    return profile, parts


def parts_of(info: ModelInfo) -> dict[str, Part]:
    """What the networks of a model folder are made from: the config of each and the type most of its bytes have.

    Raises:
        ModelFileError: a config is missing or damaged.
    """
    parts = {}
    for name, component in info.networks.items():
        config = _read(info.path / name / "config.json", dict[str, Any])
        stored = max(component.types, key=lambda kind: component.types[kind])
        parts[name] = Part(
            library=component.library, class_name=component.class_name, config=config, source_format=stored
        )
    return parts


def known() -> list[str]:
    """The models whose configs ship, sorted."""
    return sorted(file.parent.name for file in resource("models", "configs").glob("*/model.json"))


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read ({error.strerror}).") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ModelFileError(f"{path} is damaged ({error}).") from error
