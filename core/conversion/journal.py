"""What is left of a conversion that was interrupted: the unfinished file, and a journal of the tensors that it has.

Both lie beside the result. The journal's first line names what is converted and how, and the formats that were chosen;
each other line is a tensor that is on the disk. A journal of anything else is not continued.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import IO, Any

import msgspec

from core.messages import UserError

PARTIAL, JOURNAL = ".partial", ".partial.json"
_INTERVAL = 2.0  # seconds between two writes of the journal, each of which waits for the disk


class Head(msgspec.Struct, frozen=True):
    """`key` names sources and arguments, `header` the file's header; the rest is what the first pass found."""

    key: str
    header: str
    formats: dict[str, str]
    reasons: dict[str, Any]


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A tensor that is written, by its number, with its sums of squared errors and of squared numbers."""

    tensor: int
    error: float
    numbers: float


class Journal:
    """One conversion's journal. Raises UserError when another process writes the same file."""

    def __init__(self, out: Path) -> None:
        """Looks at what is there; nothing is written yet."""
        self.partial, self._path = out.with_name(out.name + PARTIAL), out.with_name(out.name + JOURNAL)
        self._file: IO[bytes] | None = None
        self._waiting: list[Line] = []
        self._written = 0.0
        self.head, self.done = _read(self._path) if self.partial.is_file() else (None, {})

    def begin(self, head: Head, size: int) -> None:
        """Continue where the last one stopped, or begin anew where it was of something else.

        Raises:
            OSError: the folder cannot be written to.
        """
        same = self.head is not None and (self.head.key, self.head.header) == (head.key, head.header)
        if not same or self.partial.stat().st_size != size:
            self.done = {}
        self._file = self._path.open("ab")
        _lock(self._file, self.partial)
        if not self.done:
            self._file.truncate(0)
            self.partial.write_bytes(b"")
            self._file.write(msgspec.json.encode(head) + b"\n")
            self._file.flush()
        else:
            self._file.write(b"\n")  # the last line may be half of one
        self._written = time.monotonic()

    def finished(self, tensor: int, error: float, numbers: float, handle: int) -> None:
        """Note a tensor; `handle` is that of the unfinished file, which must be on the disk before the note is."""
        self._waiting.append(Line(tensor, error, numbers))
        if time.monotonic() - self._written >= _INTERVAL:
            self.flush(handle)

    def flush(self, handle: int) -> None:
        """Put what was noted on the disk."""
        if not self._waiting or self._file is None:
            return
        os.fsync(handle)
        self._file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in self._waiting))
        self._file.flush()
        self._waiting.clear()
        self._written = time.monotonic()

    def close(self) -> None:
        """Let go of the files, which stay."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Leave nothing."""
        self.close()
        self._path.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)


def _read(path: Path) -> tuple[Head | None, dict[int, Line]]:
    try:
        first, *lines = path.read_bytes().split(b"\n")
        head = msgspec.json.decode(first, type=Head)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None, {}
    done = {}
    for text in lines:
        try:
            line = msgspec.json.decode(text, type=Line)
        except (ValueError, msgspec.MsgspecError):
            continue  # it was being written
        done[line.tensor] = line
    return head, done


def _lock(file: IO[bytes], partial: Path) -> None:
    """Let no other process write the same file; where the system has no such locks, nobody is kept away."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(
            f"{partial} is being written by another conversion; wait for it, or choose another name."
        ) from error
