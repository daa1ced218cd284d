"""Finds the data that ships with the program: in the source tree, in a wheel and in a frozen app."""

from __future__ import annotations

import sys
from pathlib import Path


def resource(*parts: str) -> Path:
    """The path of a shipped file or folder, e.g. `resource("starter", "model")`.

    Raises:
        FileNotFoundError: the installation is incomplete; the message names what is missing.
    """
    here = Path(__file__).resolve().parent
    # in order: a wheel packs resources inside the package, the tree keeps them beside it, PyInstaller unpacks them
    roots = [here / "_resources", here.parent / "resources", Path(getattr(sys, "_MEIPASS", here)) / "resources"]
    for root in roots:
        candidate = root.joinpath(*parts)
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"{'/'.join(parts)} is missing from this installation; install Residency again.")
