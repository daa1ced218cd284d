"""Laptops' cards are called as the desktop's and are other chips: each is found by its ids, none taken for another."""

from __future__ import annotations

import pytest

from core.hardware.match import name_of
from core.hardware.pci import Gpu
from core.hardware.profile import load, names

LAPTOPS = [name for name in names() if name.endswith("-laptop")]


def gpu(entry: str, memory_bytes: int, name: str = "") -> Gpu:
    vendor, device = (int(part, 16) for part in entry.split(":"))
    return Gpu("NVIDIA", device, memory_bytes, vendor_id=vendor, name=name)


def test_those_that_people_have() -> None:
    wanted = "rtx-3060 rtx-3070 rtx-4050 rtx-4060 rtx-4070 rtx-4080 rtx-4090 rtx-5060 rtx-5070 rtx-5070-ti rtx-5080"
    assert {f"{name}-laptop" for name in wanted.split()} <= set(LAPTOPS)


@pytest.mark.parametrize("laptop", LAPTOPS)
def test_it_is_not_taken_for_the_desktops_card_nor_the_other_way_round(laptop: str) -> None:
    card = load(laptop)
    for entry in card.pci_ids:
        assert name_of(gpu(entry, card.memory_bytes, card.title)) == laptop
        assert name_of(gpu(entry, 0)) == laptop
    desktop = laptop.removesuffix("-laptop")
    if desktop in names():
        for entry in load(desktop).pci_ids:
            assert not name_of(gpu(entry, card.memory_bytes)).endswith("-laptop")
        assert load(desktop).rate_of("F16") > card.rate_of("F16")  # it may draw twice the power
    # an id that nobody listed yet: the driver's name must not lead to the desktop's card
    assert name_of(gpu("10de:ffff", card.memory_bytes, card.title)) in ("", laptop)
