"""The index of results: SQLite with full-text search over prompts, rebuilt from the files if it is lost."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from core import folders
from core.files import PART
from core.library import database as sqlite
from core.library import metadata
from core.messages import Request, Result

_DAY_SECONDS = 86_400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    number INTEGER PRIMARY KEY,
    id TEXT UNIQUE NOT NULL,
    file TEXT NOT NULL,
    prompt TEXT NOT NULL,
    created TEXT NOT NULL,
    result BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_time ON results (created);
CREATE VIRTUAL TABLE IF NOT EXISTS prompts USING fts5(prompt, content='results', content_rowid='number');
CREATE TRIGGER IF NOT EXISTS after_insert AFTER INSERT ON results BEGIN
    INSERT INTO prompts (rowid, prompt) VALUES (new.number, new.prompt);
END;
CREATE TRIGGER IF NOT EXISTS after_delete AFTER DELETE ON results BEGIN
    INSERT INTO prompts (prompts, rowid, prompt) VALUES ('delete', old.number, old.prompt);
END;
"""


class Library:
    """The user's results. Safe to call from several threads."""

    def __init__(self, folder: Path | None = None, database: Path | None = None) -> None:
        """Open the library over `folder` (default: the user's pictures) with its index in `database`."""
        self.folder = folder or folders.pictures()
        path = database or folders.data() / "library.sqlite"
        self._lock = threading.Lock()
        self._database = sqlite.connect(path, _SCHEMA)
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == 0:  # made just now: nothing was ever indexed, or the old one was lost
            self.rescan()
            self._database.execute("PRAGMA user_version = 1")

    def new_file(self, request: Request, suffix: str = metadata.STILL) -> Path:
        """A free name for a request's picture or clip."""
        return new_file(self.folder, request, suffix)

    def add(self, result: Result) -> None:
        """Put a finished picture into the index; again with the same id replaces it."""
        with self._lock, self._database:
            self._database.execute("DELETE FROM results WHERE id = ?", (result.id,))
            self._database.execute(
                "INSERT INTO results (id, file, prompt, created, result) VALUES (?, ?, ?, ?, ?)",
                (result.id, result.file, result.prompt, result.created, msgspec.json.encode(result)),
            )

    def recent(self, limit: int = 100, offset: int = 0) -> list[Result]:
        """The newest results first."""
        return self._results(
            "SELECT result, file FROM results ORDER BY created DESC, number DESC LIMIT ? OFFSET ?", (limit, offset)
        )

    def search(self, text: str, limit: int = 100, offset: int = 0) -> list[Result]:
        """Results whose prompts hold every word of `text` (the last one may be unfinished), newest first.

        All of them where `text` holds no word.
        """
        words = re.findall(r"\w+", text)
        if not words:
            return self.recent(limit, offset)
        query = " ".join(f'"{word}"' for word in words) + "*"
        return self._results(
            "SELECT result, file FROM prompts JOIN results ON results.number = prompts.rowid "
            "WHERE prompts MATCH ? ORDER BY created DESC, number DESC LIMIT ? OFFSET ?",
            (query, limit, offset),
        )

    def remove(self, result_id: str) -> None:
        """Take a result out of the index; its file stays."""
        with self._lock:
            self._database.execute("DELETE FROM results WHERE id = ?", (result_id,))

    def rescan(self) -> int:
        """Index every file of ours below the folder that the index does not know; returns how many were found.

        Unfinished files that a killed process left there a day or longer ago are deleted.
        """
        for part in self.folder.rglob(f".*{PART}"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > _DAY_SECONDS:
                    part.unlink()
        with self._lock:
            known = {row[0] for row in self._database.execute("SELECT id FROM results")}
        files = itertools.chain.from_iterable(self.folder.rglob(f"*{end}") for end in (metadata.STILL, metadata.CLIP))
        found = self._unknown(files, known)
        for result in found:
            self.add(result)
        return len(found)

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._database.close()

    @staticmethod
    def _unknown(files: Iterable[Path], known: set[str]) -> list[Result]:
        results = (metadata.read_result(file) for file in files)
        return [result for result in results if result is not None and result.id not in known]

    def _results(self, statement: str, values: tuple[object, ...]) -> list[Result]:
        with self._lock:
            rows = self._database.execute(statement, values).fetchall()
        return [msgspec.structs.replace(msgspec.json.decode(row[0], type=Result), file=row[1]) for row in rows]


def new_file(folder: Path, request: Request, suffix: str = metadata.STILL) -> Path:
    """A free name for a request's picture or clip: `<day>/<time>-<first words>-<id>.png` below the folder."""
    now = datetime.now()
    words = "-".join(re.findall(r"[^\W_]+", request.prompt.lower())[:8])
    # file names are limited in bytes (255 on most systems), and a letter may take four
    words = words.encode(errors="ignore")[:100].decode(errors="ignore") or "picture"
    return folder / f"{now:%Y-%m-%d}" / f"{now:%H%M%S}-{words}-{request.id}{suffix}"
