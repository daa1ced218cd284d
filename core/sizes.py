"""How sizes are written and read: `12GB` (10^9 bytes), `12GiB` (2^30), `900MB`, or a plain number of bytes."""

from __future__ import annotations

import math
import re

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def byte_size(text: str) -> int:
    """Bytes. Raises ValueError with one sentence where the text is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match.group(2).upper() not in _UNITS:
        raise ValueError(f"{text} is not a size such as 12GB, 12GiB or 900MB")
    value = float(match.group(1)) * _UNITS[match.group(2).upper()]
    if not math.isfinite(value) or value >= 2**63:
        raise ValueError(f"{text} is more than any machine has")
    return round(value)  # 8.2 * 10^6 is a little less than it


def in_words(count: int) -> str:
    """Bytes for people, in a unit that says something: 4.2 GB (10^9), 38 MB, 6.9 MB, 540 kB or 96 bytes."""
    if count >= 95e7:
        return f"{count / 1e9:.1f} GB"
    if count >= 95e4:
        return f"{count / 1e6:.1f} MB" if count < 95e5 else f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB" if count >= 950 else f"{count} bytes"


def at_least(count: int) -> str:
    """A size that is no less than so many bytes, for people to ask for: 6.9MB, 540kB."""
    unit, name = next(
        ((size, name) for size, name in ((10**8, "GB"), (10**5, "MB"), (100, "kB")) if count >= 10 * size), (0, "B")
    )
    return f"{-(-count // unit) / 10:.1f}{name}" if unit else f"{count}{name}"
