"""The models a person can name: the starter that ships, those added by folder, and any folder by its path."""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from pathlib import Path

from core import folders
from core.messages import ModelFileError, UserError
from core.models.folder import read_folder
from core.models.info import ModelInfo
from core.resources import resource

STARTER = "starter"


def installed() -> dict[str, Path]:
    """The known models: name to folder, the starter first."""
    return {STARTER: resource("starter", "model"), **_added()}


def find(name: str) -> ModelInfo:
    """Read a model by its name or by the path of its folder.

    Raises:
        UserError: there is no such model; the sentence suggests the nearest name.
        ModelFileError: its files are missing or damaged.
    """
    try:
        known = installed()
    except FileNotFoundError as error:
        raise ModelFileError(str(error)) from error
    if name in known:
        return read_folder(known[name], name)
    if Path(name).expanduser().exists() or os.sep in name:
        return read_folder(Path(name))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known models: {', '.join(known)}; or give a model folder's path."
    raise UserError(f"There is no model called {name}; {hint}")


def add(path: Path) -> ModelInfo:
    """Remember a model folder by its name. Raises as `find` does."""
    info = read_folder(path)
    if info.name != STARTER:
        _write({**_added(), info.name: info.path})
    return info


def remove(name: str) -> None:
    """Forget a model; its files stay. Raises UserError when it is not known or is the starter."""
    added = _added()
    if name not in added:
        raise UserError(f"{name} is not among the models that were added: {', '.join(added) or 'none'}.")
    _write({key: value for key, value in added.items() if key != name})


def _file() -> Path:
    return folders.data() / "models.json"


def _added() -> dict[str, Path]:
    try:
        entries = json.loads(_file().read_text(encoding="utf-8"))
        return {str(name): Path(path) for name, path in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(models: dict[str, Path]) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump({name: str(path) for name, path in models.items()}, stream, indent=2)
    Path(temporary).replace(file)
