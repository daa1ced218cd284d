"""Pictures in a terminal: two pixels a character, as upper half blocks in 24-bit colour."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image

from core.library import metadata, mp4

_MAX_COLUMNS = 96


def picture(path: Path) -> str:
    """A picture file, or a clip's cover, as lines of ANSI text that fit the terminal."""
    columns = min(_MAX_COLUMNS, shutil.get_terminal_size().columns - 1)
    with Image.open(io.BytesIO(mp4.read_cover(path)) if path.suffix == metadata.CLIP else path) as image:
        scale = min(1.0, columns / image.width)
        width, height = max(1, round(image.width * scale)), max(2, round(image.height * scale) // 2 * 2)
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    data = small.tobytes()

    def colour(x: int, y: int) -> str:
        at = 3 * (y * width + x)
        return ";".join(str(value) for value in data[at : at + 3])

    rows = (
        "".join(f"\x1b[38;2;{colour(x, y)}m\x1b[48;2;{colour(x, y + 1)}m▀" for x in range(width)) + "\x1b[0m"
        for y in range(0, height, 2)
    )
    return "\n".join(rows)
