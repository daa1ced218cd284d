"""Opens a picture that a request starts from: any common file, upright, without transparency, at the size asked for."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from core.messages import UserError

# What Pillow may try; it also has readers that start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "AVIF", "ICO", "JPEG2000")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and its values for pictures that lie on their side
_DEEP = ("I", "F")  # modes of more than 8 bit


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a picture as it is looked at. Reads its header alone.

    Raises:
        UserError: there is no such file, or it is no picture.
    """
    try:
        with _opened(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(_ORIENTATION) in _TURNED else (width, height)
    except Exception as error:
        raise _unreadable(path, error) from error


def read_fitting(path: Path, width: int, height: int) -> Image.Image:
    """The picture as RGB in exactly this size: scaled until it covers it, and what sticks out is cut off evenly.

    Transparent places are white; of what moves it is the first frame.

    Raises:
        UserError: there is no such file, it is no picture, damaged, or too large to be opened.
    """
    try:
        with _opened(path) as image:
            upright = ImageOps.exif_transpose(image)
            return ImageOps.fit(_rgb(upright), (width, height), Image.Resampling.LANCZOS)
    except Exception as error:
        raise _unreadable(path, error) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content. Raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        Image.init()
        return Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN])


def _rgb(image: Image.Image) -> Image.Image:
    """8 bit RGB on white."""
    if image.mode.startswith(_DEEP):
        # 16 bit grey comes as such or in 32; Pillow's own conversion would cut off what is above 255
        _, high = image.getextrema()
        deep = isinstance(high, (int, float)) and high > 255
        image = image.convert("F").point(lambda value: value * (1 / 257 if deep else 1)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _unreadable(path: Path, error: Exception) -> UserError:
    """What to say about any failure: readers of damaged files raise all there is."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, FileNotFoundError):
        return UserError(f"The picture {path} is not there; choose another one.")
    if isinstance(error, IsADirectoryError) or path.is_dir():
        return UserError(f"{path} is a folder; choose a picture in it.")
    if isinstance(error, PermissionError):
        return UserError(f"The picture {path} cannot be read: it may only be opened by others.")
    if isinstance(error, Image.DecompressionBombError):
        return UserError(f"The picture {path} has too many pixels to be opened; make it smaller in another program.")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path} is no picture that can be read; PNG, JPEG, WebP and other common kinds can.")
    return UserError(f"The picture {path} is damaged and cannot be read ({_brief(error)}); choose another one.")


def _brief(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:120]
