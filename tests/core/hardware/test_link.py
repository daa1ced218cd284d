"""Links are read from profiles and from sysfs, and a chain is as fast as its slowest part."""

from __future__ import annotations

import pytest

from core.hardware.link import Link, from_sysfs, parse, slowest


@pytest.mark.parametrize(
    ("words", "rate"),
    [("PCIe 3.0 x16", 12e9), ("PCIe 4.0 x16", 25e9), ("PCIe 5.0 x16", 50e9), ("PCIe 4.0 x8", 12.5e9)],
)
def test_planning_rates(words: str, rate: float) -> None:
    link = parse(words)
    assert link is not None
    assert str(link) == words
    assert link.pinned_rate == rate


@pytest.mark.parametrize("words", ["", "PCIe 4 x16", "PCIe 7.0 x16", "PCIe 4.0 x3", "AGP 8x", "PCIe 4.0 x16 "])
def test_what_is_no_link(words: str) -> None:
    assert parse(words) is None


@pytest.mark.parametrize(
    ("speed", "width", "link"),
    [
        ("16.0 GT/s PCIe", "16", Link(4, 16)),
        ("8 GT/s", "8", Link(3, 8)),
        ("2.5 GT/s PCIe", "1", Link(1, 1)),
        ("32.0 GT/s PCIe", "4", Link(5, 4)),
        ("Unknown", "0", None),
        ("Unknown speed", "255", None),
        ("16.0 GT/s PCIe", "255", None),
        ("", "", None),
    ],
)
def test_as_sysfs_writes_it(speed: str, width: str, link: Link | None) -> None:
    assert from_sysfs(speed, width) == link


def test_the_slowest_part_of_a_chain_bounds_it() -> None:
    assert slowest([Link(5, 8), Link(3, 16), Link(4, 16)]) == Link(3, 16)
    assert slowest([]) is None
    assert Link(5, 8).joined(Link(4, 16)) == Link(4, 8)
