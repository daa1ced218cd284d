"""Opening SQLite files that may be damaged."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path


def connect(path: Path | None, schema: str) -> sqlite3.Connection:
    """A connection with the schema in place; None is a database in memory.

    A file that is no database any more is moved aside (`<name>.damaged-<time>`) and a new one begun: the program
    starts, and nothing is deleted.

    Raises:
        sqlite3.Error, OSError: the folder cannot be written to.
    """
    if path is None:
        return _open(":memory:", schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _open(path, schema)
    except sqlite3.OperationalError:
        raise  # a full disk or a locked file, which moving aside would not mend
    except sqlite3.DatabaseError:
        path.replace(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
        return _open(path, schema)


def _open(path: Path | str, schema: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(schema)
    except BaseException:
        connection.close()
        raise
    return connection
