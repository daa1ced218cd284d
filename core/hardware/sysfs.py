"""Reading the small files of /sys and /proc, which may be missing, forbidden or nonsense. No torch."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """A small file's text; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def read_int(path: Path) -> int | None:
    """A file's number, decimal or 0x...; None where there is none."""
    try:
        return int(read_text(path), 0)
    except ValueError:
        return None
