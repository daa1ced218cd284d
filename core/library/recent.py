"""What was made lately, read beside the library without opening it for writing: little enough for every plan."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec

from core import folders

_BUSY_SECONDS = 0.1  # a database that is locked for longer is done without


class Made(msgspec.Struct, frozen=True):
    """As much of a result as tells what was changed from one picture to the next."""

    prompt: str
    negative_prompt: str = ""
    model: str = ""
    fingerprint: str = ""

    @property
    def content(self) -> str:
        """What names its model: the fingerprint of its files, else its name."""
        return self.fingerprint or self.model


def recently_made(limit: int, database: Path | None = None) -> list[Made]:
    """The newest results of the user's library first; empty where there is none that can be read."""
    path = database or folders.data() / "library.sqlite"
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS)) as connection:
            statement = "SELECT result FROM results ORDER BY created DESC, number DESC LIMIT ?"
            rows = connection.execute(statement, (limit,)).fetchall()
    except sqlite3.Error:
        return []
    return [made for (row,) in rows if (made := _made(row)) is not None]


def _made(row: bytes) -> Made | None:
    try:
        return msgspec.json.decode(row, type=Made)
    except (msgspec.MsgspecError, UnicodeError, TypeError):
        return None
