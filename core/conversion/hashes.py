"""The SHA-256 of the files that are converted, computed beside the conversion: what model hubs name files by."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

_AT_ONCE = 1 << 22  # bytes
_POLL = 0.2  # seconds


class Hashes:
    """Hashes files in a thread for the length of a `with`."""

    def __init__(self, files: Sequence[Path]) -> None:
        """In the order of `files`."""
        self._files, self._found = files, list[str]()
        self._error: OSError | None = None
        self._stop = threading.Event()
        self._bytes, self._total = 0, sum(file.stat().st_size for file in files) or 1
        self._thread = threading.Thread(target=self._run, name="hashes")

    def __enter__(self) -> Hashes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self, tick: Callable[[float], None]) -> list[str]:
        """All of them, in hexadecimal. Raises OSError where a file cannot be read."""
        while self._thread.is_alive():
            self._thread.join(_POLL)
            tick(self._bytes / self._total)
        if self._error is not None:
            raise self._error
        return self._found

    def _run(self) -> None:
        try:
            for path in self._files:
                digest = hashlib.sha256()
                with path.open("rb", buffering=0) as file:
                    while some := file.read(_AT_ONCE):
                        digest.update(some)
                        self._bytes += len(some)
                        if self._stop.is_set():
                            return
                self._found.append(digest.hexdigest())
        except OSError as error:
            self._error = error
