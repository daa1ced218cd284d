"""The models a person can name: the starter that ships, those that were added, and any folder or file by its path.

A file of weights alone is a model together with its base, which has the configs, tokenizers and networks that it lacks:
the one that it was added with, else the model folder that it lies in, else the first known model that it fits.
"""

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
from core.models.checkpoint import Checkpoint, is_adapter, open_checkpoint
from core.models.completed import complete
from core.models.fitting import MisfitError, related
from core.models.folder import INDEX, read_folder
from core.models.gguf_header import read_gguf
from core.models.info import ModelInfo
from core.models.single import is_whole, read_file, stamp_of
from core.models.stored import is_gguf
from core.resources import resource

STARTER = "starter"

_FILES = (".gguf", ".safetensors")

_known: dict[tuple[Path, str], ModelInfo] = {}


class _Entry(msgspec.Struct, frozen=True):
    """What is remembered of a model: its folder or file, and the name or path of its base."""

    path: str
    base: str = ""


class Match(NamedTuple):
    """The known model that stands for one that a result names. `name` is empty where there is none."""

    name: str
    same: bool = True  # whether its content is the same


def installed() -> dict[str, Path]:
    """The known models: name to folder or file, the starter first."""
    return {name: Path(entry.path) for name, entry in _entries().items()}


def find(name: str) -> ModelInfo:
    """Read a model by its name or by the path of its folder or file.

    Raises:
        UserError: there is no such model; the sentence suggests the nearest name.
        ModelFileError: its files are missing or damaged.
    """
    try:
        known = _entries()
    except FileNotFoundError as error:
        raise ModelFileError(str(error)) from error
    if name in known:
        return _read(known[name], name)
    if is_path(name):
        path = folders.user_path(name)
        added = (entry for entry in known.values() if entry.base and Path(entry.path) == path.resolve())
        return _read(next(added, _Entry(str(path))))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known models: {', '.join(known)}; or give the path of a model."
    raise UserError(f"There is no model called {name}; {hint}")


def is_path(name: str) -> bool:
    """Whether a name means a folder or a file, be it there or not."""
    if os.sep in name or "/" in name:
        return True
    path = folders.user_path(name)
    return path.is_dir() or (path.suffix in _FILES and path.is_file())


def match(name: str, fingerprint: str) -> Match:
    """The known model that made a result: the one of that name if its content is the same, else any other whose is.

    Where no content is the same, the one of that name. Reads the folders of known models, which takes a disk's time.
    """
    try:
        known = _entries()
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


def add(path: Path, name: str = "", base: str = "") -> ModelInfo:
    """Remember a model by its name, or by its name and a number where that is taken.

    Args:
        name: what to call it instead; a known model of that name is replaced.
        base: the name or path of the model that a file of weights is used with.

    Raises:
        UserError, ModelFileError: as `find` does; or there is a base and the path is a whole model.
    """
    if base and (path.is_dir() or _whole(path)):
        raise UserError(f"{path} is a whole model, which needs no other; leave --with away.")
    info = _look(path, base)
    known, entry = _entries(), _Entry(str(info.source), base or _base_of(info))
    if name == STARTER:
        raise UserError(f"{STARTER} is the model that ships; choose another name.")
    under = entry.base
    while under:
        if under == name:
            raise UserError(f"{path.name} is used with {name}, so it cannot be called that, too; choose another name.")
        under = known[under].base if under in known else ""
    if not name:
        name = next((name for name, other in known.items() if Path(other.path).resolve() == info.source), "")
    if not name:
        numbered = (f"{info.name} {number}" for number in itertools.count(2))
        name = next(name for name in (info.name, *itertools.islice(numbered, len(known))) if name not in known)
    if name != STARTER:
        _write({**_added(), name: entry})
    _known[Path(entry.path), entry.base] = info
    return msgspec.structs.replace(info, name=name)


def remove(name: str) -> None:
    """Forget a model; its files stay. Raises UserError when it is not known or is the starter."""
    added = _added()
    if name not in added:
        raise UserError(f"{name} is not among the models that were added: {', '.join(added) or 'none'}.")
    _write({key: value for key, value in added.items() if key != name})


def _entries() -> dict[str, _Entry]:
    return {STARTER: _Entry(str(resource("starter", "model"))), **_added()}


def _read(entry: _Entry, name: str = "") -> ModelInfo:
    """A model, remembered for as long as no file of it changes."""
    path, key = Path(entry.path), (Path(entry.path), entry.base)
    known = _known.get(key)
    if known is None or not known.source.exists() or known.identity != stamp_of(known):
        known = _known[key] = _look(path, entry.base)
    return msgspec.structs.replace(known, name=name or known.name)


def _look(path: Path, base: str = "") -> ModelInfo:
    if not path.is_file():
        return read_folder(path)
    if _whole(path):
        return read_file(path)
    if not base:
        return _completed(path)
    try:
        found = find(base)
    except UserError as error:
        raise UserError(f"{path.name} is used with {base}, which cannot be read: {error}") from error
    return complete(path, found)


def _whole(path: Path) -> bool:
    return path.is_file() and is_gguf(path) and is_whole(read_gguf(path, 64))


def _base_of(info: ModelInfo) -> str:
    """What the base of a model is remembered by."""
    if info.base is None:
        return ""
    known = (name for name, entry in _entries().items() if Path(entry.path) == info.base.source)
    return next(known, str(info.base.source))


def _completed(path: Path) -> ModelInfo:
    """A file of weights with the first base that it fits: those called like it come first."""
    checkpoint = open_checkpoint(path)
    around = [folder for folder in (path.parent, path.parent.parent) if (folder / INDEX).is_file()]
    known = {name: entry for name, entry in _entries().items() if not entry.base and Path(entry.path) != path}
    alike = sorted(known, key=lambda name: -difflib.SequenceMatcher(None, name.lower(), path.stem.lower()).ratio())
    missed = (0, "")
    for entry in [*(_Entry(str(folder)) for folder in around), *(known[name] for name in alike)]:
        try:
            base = _read(entry)
        except ResidencyError:
            continue  # damaged or gone; whoever chooses it is told
        if checkpoint.recognised.family and not related(checkpoint.recognised.family, base.family):
            continue
        try:
            return complete(path, base)
        except MisfitError as error:
            missed = max(missed, (error.fitting, f" ({base.name}: {error.said})" if error.said else ""))
    raise UserError(_alone(path, checkpoint, missed[1]))


def _alone(path: Path, checkpoint: Checkpoint, missed: str) -> str:
    """Why a file of weights is no model by itself."""
    if is_adapter(checkpoint.tensors):
        return (
            f"{path.name} is an adapter (LoRA), which changes a model and is none; choose a model, and it with --lora."
        )
    recognised = checkpoint.recognised
    held = sorted({name for name in recognised.components.values() if name not in ("other", path.stem)})
    of = f" of a {recognised.family}" if recognised.family else ""
    what = f"{', '.join(held)}{of}" if held else "networks that this version does not know"
    fits = f", which fits none of your models{missed}" if missed else ""
    return (
        f"{path.name} holds weights, but no whole model: {what}, without configs and tokenizers{fits}; add the folder "
        "of the model that it was made for first, from which it takes these."
    )


def _file() -> Path:
    return folders.data() / "models.json"


def _added() -> dict[str, _Entry]:
    """By name. An entry is a path, or an object with a path and its base."""
    try:
        entries = msgspec.json.decode(_file().read_bytes(), type=dict[str, str | _Entry])
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return {}
    return {name: _Entry(entry) if isinstance(entry, str) else entry for name, entry in entries.items()}


def _write(models: dict[str, _Entry]) -> None:
    plain = {name: msgspec.to_builtins(entry) if entry.base else entry.path for name, entry in models.items()}
    text = json.dumps(plain, indent=2)
    try:
        write_atomically(_file(), lambda file: file.write(text.encode()))
    except OSError as error:
        raise UserError(f"{_file()} cannot be written ({error.strerror}); change its folder's permissions.") from error
