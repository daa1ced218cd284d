"""The command `residency studio`."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the window; returns the exit code.

    Files among the arguments give their settings. `--measure-start` shows the window, prints the seconds to its first
    frame and to that of a bare window, and quits.
    """
    # Starting makes many objects and throws few away: looking for garbage meanwhile takes a quarter of the time to the
    # first frame. `app.garbage` takes it over there. Therefore, too, the window is imported here and not above.
    gc.disable()
    # First what needs no Qt: once Qt's binding is there, it reads the source of every module that is imported.
    for module in (
        "app.chart_scale",
        "app.outlook",
        "app.pace",
        "app.settings",
        "app.state",
        "app.vocabulary",
        "app.words",
        "core.models.check",
        "core.resources",
    ):
        importlib.import_module(module)
    from app.application import run

    return run(list(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
