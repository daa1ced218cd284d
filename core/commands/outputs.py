"""Files that a person asked to be written: whether they can be is found out before any work."""

from __future__ import annotations

import os
from pathlib import Path

from core.files import is_stream
from core.messages import UserError


def check_output(path: Path, suffix: str = "", why: str = "") -> None:
    """Find out before any work whether a file that a person named can be written.

    Args:
        suffix: what its name must end in, so that nothing else is written over; `why` says of what that is the format.

    Raises:
        UserError: it cannot, or its folder is not there; the sentence says what to change.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file in it.")
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder, so {path.name} cannot be written there; choose another.")
    if not path.parent.is_dir():
        raise UserError(f"The folder {path.parent} does not exist; make it or choose another.")
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise UserError(f"{path} cannot be written to; give the name of a file.")
        return
    if suffix and path.suffix.lower() != suffix:
        raise UserError(f"{path.name} does not end in {suffix}, the format of {why}; change its name.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} cannot be written to; choose another folder.")
