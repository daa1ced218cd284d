"""Where the program keeps the user's files: pictures, data, cache and logs.

`RESIDENCY_HOME` moves all of them under one folder; tests, portable installations and second instances use it.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from core.messages import UserError

APP = "residency"


def _under_home(name: str) -> Path | None:
    home = os.environ.get("RESIDENCY_HOME")
    return Path(home).expanduser() / name if home else None


def user_path(text: str) -> Path:
    """A path that a person typed, absolute and with `~` replaced. Raises UserError when there can be no such path."""
    if not text.strip():
        raise UserError("A name is empty; give that of a file or folder (`.` is the one that you are in).")
    try:
        path = Path(text).expanduser().absolute()
        path.exists()  # a name that is too long or holds a NUL fails here, not in the middle of the work
    except (RuntimeError, OSError, ValueError) as error:
        shown = text if len(text) < 100 else f"{text[:100]}..."
        raise UserError(f"{shown!r} is not a usable path; give another one.") from error
    return path


def pictures() -> Path:
    """The folder that results are written to (a subfolder of the user's pictures folder)."""
    return _under_home("pictures") or platformdirs.user_pictures_path() / "Residency"


def data() -> Path:
    """The folder of what must not be lost: the queue, the index of results, settings."""
    return _under_home("data") or platformdirs.user_data_path(APP, appauthor=False)


def cache() -> Path:
    """The folder of what can be made again: encodings, fitted preview maps."""
    return _under_home("cache") or platformdirs.user_cache_path(APP, appauthor=False)


def logs() -> Path:
    """The folder of log files."""
    return _under_home("logs") or platformdirs.user_log_path(APP, appauthor=False)
