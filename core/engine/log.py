"""Keeps the engine's log from growing without end while the engine runs.

Everything in the process prints to the log through file descriptors 1 and 2, native libraries and subprocesses too,
and none of them would notice another file. So the file stays and is emptied: its content is copied beside it, then it
is cut to nothing through the descriptor itself. What is printed between the two is lost, which a log can bear.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

LIMIT_BYTES = 5_000_000


def rotate(descriptor: int, log: Path, limit: int = LIMIT_BYTES) -> None:
    """Move the log's content to `<name>.old.log` (replacing it) when there is more of it than `limit` bytes.

    `descriptor` is open for writing on `log`. A disk that will not have it is no reason to stop: nothing happens then.
    """
    with contextlib.suppress(OSError):
        if os.fstat(descriptor).st_size <= limit:
            return
        try:
            shutil.copyfile(log, log.with_suffix(".old.log"))
        finally:
            # also where there is no room for a copy: the log may be what filled the disk
            os.ftruncate(descriptor, 0)
            # where appending is no property of the open file (Windows), the next print would go where the last ended
            os.lseek(descriptor, 0, os.SEEK_SET)
