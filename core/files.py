"""Writing files so that they are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

PART = ".part"  # what unfinished files end in


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A file beside `path` for somebody who writes by name; what it holds takes the place of `path` at the end.

    After an error it is gone, and what was at `path` is still there.
    """
    handle, name = tempfile.mkstemp(prefix=".", suffix=PART, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        _open_to_all(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk and rename it.

    What is no file (a device, a pipe) is written into, since renaming would put a file in its place.

    Raises:
        OSError: the folder cannot be written to or the disk is full; what was at `path` is still there.
    """
    if is_stream(path):
        with path.open("wb") as file:
            write(file)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".", suffix=PART, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        _open_to_all(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_stream(path: Path) -> bool:
    """Whether a path is a device or a pipe, or what the shell has put behind one, as with /dev/stdout."""
    own = path.absolute()
    if own.is_relative_to("/proc") or (own.is_relative_to("/dev") and not own.is_relative_to("/dev/shm")):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def _open_to_all(file: Path) -> None:
    """mkstemp makes private files; this one gets the permissions that any new file gets."""
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)
