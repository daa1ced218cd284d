"""The models a person can name: the starter that ships, those that were added, and any folder or file by its path."""

from __future__ import annotations

import difflib
import itertools
import json
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from core import folders
from core.files import write_atomically
from core.messages import ModelFileError, ResidencyError, UserError
from core.models.folder import read_folder
from core.models.info import ModelInfo
from core.models.single import read_file, stamp_of
from core.resources import resource

STARTER = "starter"

_known: dict[Path, ModelInfo] = {}


class Match(NamedTuple):
    """The known model that stands for one that a result names. `name` is empty where there is none."""

    name: str
    same: bool = True  # whether its content is the same


def installed() -> dict[str, Path]:
    """The known models: name to folder or file, the starter first."""
    return {STARTER: resource("starter", "model"), **_added()}


def find(name: str) -> ModelInfo:
    """Read a model by its name or by the path of its folder or file.

    Raises:
        UserError: there is no such model; the sentence suggests the nearest name.
        ModelFileError: its files are missing or damaged.
    """
    try:
        known = installed()
    except FileNotFoundError as error:
        raise ModelFileError(str(error)) from error
    if name in known:
        return _read(known[name], name)
    if is_path(name):
        return _read(folders.user_path(name))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known models: {', '.join(known)}; or give the path of a model."
    raise UserError(f"There is no model called {name}; {hint}")


def is_path(name: str) -> bool:
    """Whether a name means a folder or a file, be it there or not."""
    if os.sep in name or "/" in name:
        return True
    path = folders.user_path(name)
    return path.is_dir() or (path.suffix == ".gguf" and path.is_file())


def match(name: str, fingerprint: str) -> Match:
    """The known model that made a result: the one of that name if its content is the same, else any other whose is.

    Where no content is the same, the one of that name. Reads the folders of known models, which takes a disk's time.
    """
    try:
        known = installed()
    except FileNotFoundError:
        known = _added()
    # a result of another program or an early version names its model at most
    if not fingerprint and name in known:
        return Match(name)
    namesake = ""
    for candidate in sorted(known, key=lambda other: other != name):
        try:
            found = _read(known[candidate])
        except (ResidencyError, OSError):
            continue  # damaged or gone; whoever chooses it is told
        if found.fingerprint == fingerprint:
            return Match(candidate)
        if candidate == name:
            namesake = name
    return Match(namesake, same=False)


def add(path: Path) -> ModelInfo:
    """Remember a model by its name, or by its name and a number where that is taken. Raises as `find` does."""
    info = _look(path)
    known = installed()
    name = next((name for name, place in known.items() if place.resolve() == info.source), None)
    if name is None:
        numbered = (f"{info.name} {number}" for number in itertools.count(2))
        name = next(name for name in (info.name, *itertools.islice(numbered, len(known))) if name not in known)
        _write({**_added(), name: info.source})
    return msgspec.structs.replace(info, name=name)


def remove(name: str) -> None:
    """Forget a model; its files stay. Raises UserError when it is not known or is the starter."""
    added = _added()
    if name not in added:
        raise UserError(f"{name} is not among the models that were added: {', '.join(added) or 'none'}.")
    _write({key: value for key, value in added.items() if key != name})


def _read(path: Path, name: str = "") -> ModelInfo:
    """A model, remembered for as long as no file of it changes."""
    known = _known.get(path)
    if known is None or not known.source.exists() or known.identity != stamp_of(known):
        known = _known[path] = _look(path)
    return msgspec.structs.replace(known, name=name or known.name)


def _look(path: Path) -> ModelInfo:
    return read_file(path) if path.is_file() else read_folder(path)


def _file() -> Path:
    return folders.data() / "models.json"


def _added() -> dict[str, Path]:
    try:
        entries = json.loads(_file().read_text(encoding="utf-8"))
        return {str(name): Path(path) for name, path in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(models: dict[str, Path]) -> None:
    text = json.dumps({name: str(path) for name, path in models.items()}, indent=2)
    try:
        write_atomically(_file(), lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(f"{_file()} cannot be written ({error.strerror}); change its folder's permissions.") from error
