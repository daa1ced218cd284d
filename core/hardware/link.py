"""What a PCI Express link carries: from generation and lanes to the rates of copies from host memory. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

# Bytes per second that copies from pinned memory reach over 16 lanes, by generation: about four fifths of what the wire
# carries after encoding (15.75, 31.5 and 63 GB/s for generations 3 to 5). Planning figures until the link is measured;
# generations 1, 2 and 6 follow by halving and doubling.
_PINNED_X16 = {1: 3e9, 2: 6e9, 3: 12e9, 4: 25e9, 5: 50e9, 6: 100e9}
# From memory that is not pinned the driver copies twice, through a small buffer of its own: a third of pinned, or less.
PAGEABLE_SHARE = 1 / 3
# A copier thread that reads a file's pages into a pinned ring is bounded by one core's copies.
STAGED_LIMIT = 13e9

_WORDS = re.compile(r"PCIe ([1-6])\.0 x(1|2|4|8|12|16)")
# What sysfs says per lane (GT/s) for each generation; older kernels write "8 GT/s", newer ones "8.0 GT/s PCIe".
_GENERATION = {"2.5": 1, "5": 2, "5.0": 2, "8": 3, "8.0": 3, "16": 4, "16.0": 4, "32": 5, "32.0": 5, "64": 6, "64.0": 6}


class Link(msgspec.Struct, frozen=True):
    """A link by its PCI Express generation (1 to 6) and the number of its lanes."""

    generation: int
    lanes: int

    def __str__(self) -> str:
        return f"PCIe {self.generation}.0 x{self.lanes}"

    @property
    def pinned_rate(self) -> float:
        """Bytes per second from pinned host memory to the device: assumed, see `_PINNED_X16`."""
        return _PINNED_X16[self.generation] * self.lanes / 16

    def joined(self, other: Link) -> Link:
        """What two ends, each able of so much, agree on."""
        return Link(min(self.generation, other.generation), min(self.lanes, other.lanes))


def parse(words: str) -> Link | None:
    """The link that is written like "PCIe 4.0 x16"; None where it is written otherwise."""
    found = _WORDS.fullmatch(words)
    return Link(int(found[1]), int(found[2])) if found else None


def from_sysfs(speed: str, width: str) -> Link | None:
    """The link of sysfs' `max_link_speed` and `max_link_width`; None for "Unknown" and the 255 lanes of no link."""
    generation = _GENERATION.get(speed.split(" ")[0].strip())
    lanes = int(width) if width.strip().isdigit() else 0
    return Link(generation, lanes) if generation and 1 <= lanes <= 32 else None


def slowest(links: Iterable[Link]) -> Link | None:
    """The link of a chain that bounds it; None where there are none."""
    return min(links, key=lambda link: link.pinned_rate, default=None)
