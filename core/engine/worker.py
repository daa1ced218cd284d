"""The engine process: `python -m core.engine.worker LOG`, commands on stdin, events on stdout, prints to LOG."""

from __future__ import annotations

import os
import sys

# Before any other import: native libraries print, and subprocesses inherit. Keep the two pipes under private
# numbers, let 0 read nothing and 1 go where 2 goes (the log).
_commands_fd, _events_fd = (os.dup(0), os.dup(1)) if __name__ == "__main__" else (-1, -1)
if __name__ == "__main__":
    _null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(_null, 0)
    os.close(_null)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(_commands_fd, os.O_BINARY)
        msvcrt.setmode(_events_fd, os.O_BINARY)

import faulthandler
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from core.engine.frames import BrokenStream, read_commands, write_frame
from core.engine.libraries import prepare
from core.engine.log import rotate
from core.engine.outbox import Outbox
from core.messages import Heartbeat

if TYPE_CHECKING:
    from core.scheduler.loop import Scheduler

HEARTBEAT_SECONDS = 1.0
# How long a run may take to reach its next block after stdin ended; then the process ends where it is.
GRACE_SECONDS = 3.0


def _read(stream: BinaryIO, scheduler: Scheduler) -> None:
    """Hand commands to the scheduler until stdin ends: the parent has closed it, or is dead."""
    try:
        for command in read_commands(stream):
            scheduler.command(command)
    except (BrokenStream, OSError) as error:
        print(f"commands broke off: {error}", file=sys.stderr)
    scheduler.stop()
    time.sleep(GRACE_SECONDS)
    os._exit(0)


def _beat(outbox: Outbox, scheduler: Scheduler) -> None:
    while True:
        outbox.put(Heartbeat(scheduler.running))
        if len(sys.argv) > 1:
            rotate(2, Path(sys.argv[1]))
        time.sleep(HEARTBEAT_SECONDS)


def _write(stream: BinaryIO, outbox: Outbox) -> None:
    try:
        while (event := outbox.get()) is not None:
            write_frame(stream, event)
    except OSError:
        os._exit(0)  # nobody listens any more
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an engine that cannot speak must not look like one that thinks


def main() -> int:
    """Run the engine until stdin ends; 1 when it could not start or broke down."""
    faulthandler.enable()
    outbox = Outbox()
    commands, events = os.fdopen(_commands_fd, "rb"), os.fdopen(_events_fd, "wb")
    writer = threading.Thread(target=_write, args=(events, outbox), name="events")
    writer.start()
    status = 0
    try:
        _serve(commands, outbox)
    except BaseException:
        traceback.print_exc()
        status = 1
    outbox.close()
    writer.join()
    return status


def _serve(commands: BinaryIO, outbox: Outbox) -> None:
    prepare()
    from core.scheduler.loop import Scheduler  # leads to torch and takes seconds

    scheduler = Scheduler(outbox.put)
    threading.Thread(target=_read, args=(commands, scheduler), name="commands", daemon=True).start()
    threading.Thread(target=_beat, args=(outbox, scheduler), name="heartbeat", daemon=True).start()
    scheduler.run()


if __name__ == "__main__":
    sys.exit(main())
