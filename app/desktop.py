"""What the window asks of the desktop: open a file, show its folder, the clipboard, read a dropped picture."""

from __future__ import annotations

import sys
from pathlib import Path

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication, QImage

from app.still import still
from core.messages import Request, Result, UserError


def read_picture(path: Path) -> tuple[Result | None, Request]:
    """What a picture file says of how it was made: the whole result where it is one of ours.

    Raises:
        UserError: it says nothing that can be used.
    """
    from core.library import metadata  # brings Pillow, which the first frame does not need

    result = metadata.read_result(path)
    request = metadata.read_request(path)
    if request is None:
        if not path.is_file():
            raise UserError(f"{path.name} is not a file; drop a PNG or MP4 that was made by a diffusion program.")
        raise UserError(
            f"{path.name} carries no settings; "
            "drop a PNG or MP4 that was made by a diffusion program and not changed since."
        )
    return result, request


def is_picture(path: Path) -> bool:
    """Whether a file is a picture that can be started from."""
    from core.library import pictures

    try:
        pictures.size_of(path)
    except UserError:
        return False
    return True


def open_file(path: Path) -> None:
    """Open a picture in the person's viewer. Raises UserError when it is gone."""
    _require(path)
    if not QDesktopServices.openUrl(QUrl.fromLocalFile(str(path))):
        raise UserError(f"No program of this desktop opens {path.name}; it is in {path.parent}.")


def show_in_folder(path: Path) -> None:
    """Show a picture in the file manager, selected where the system can do that. Raises UserError when it is gone."""
    import subprocess  # the first frame does not need it

    _require(path)
    if sys.platform == "win32":
        subprocess.Popen(["explorer", "/select,", str(path)])
    elif sys.platform == "darwin":
        subprocess.Popen(["open", "-R", str(path)])
    elif not QDesktopServices.openUrl(QUrl.fromLocalFile(str(path.parent))):
        raise UserError(f"No file manager was found; the picture is {path}.")


def copy_picture(path: Path) -> None:
    """Put a picture on the clipboard. Raises UserError when it cannot be read."""
    _require(path)
    image = still(str(path))
    if image.isNull():
        raise UserError(f"{path.name} cannot be read; the file is damaged.")
    copy_image(image)


def copy_image(image: QImage) -> None:
    """Put pixels on the clipboard."""
    if not image.isNull():
        QGuiApplication.clipboard().setImage(image)


def copy_text(text: str) -> None:
    """Put text on the clipboard."""
    QGuiApplication.clipboard().setText(text)


def _require(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is not there any more; it was moved or deleted.")
