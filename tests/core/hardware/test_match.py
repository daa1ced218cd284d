"""The profile that a machine is planned with: the shipped card, corrected by what was seen."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from core.hardware import machine
from core.hardware.link import Link
from core.hardware.machine import Machine
from core.hardware.match import best_profile, name_of, title_of
from core.hardware.pci import Gpu
from core.hardware.profile import HardwareProfile, absurdity, load
from tests.core.hardware import trees

GIB = 2**30


def gpu(pci_id: str, vram_bytes: int = 0, link: Link | None = None, name: str = "", gtt_bytes: int = 0) -> Gpu:
    vendor, device, *revision = (int(part, 16) for part in pci_id.split(":"))
    words = {0x1002: "AMD", 0x10DE: "NVIDIA", 0x8086: "Intel"}[vendor]
    return Gpu(
        vendor=words,
        device_id=device,
        vram_bytes=vram_bytes,
        gtt_bytes=gtt_bytes,
        link=link,
        vendor_id=vendor,
        revision=revision[0] if revision else -1,
        name=name,
    )


def with_gpus(*gpus: Gpu, memory_bytes: int = 64 * GIB, system: str = "Linux 6.12") -> Machine:
    return Machine(system, "A Processor", 8, memory_bytes, memory_bytes // 2, gpus)


def best(found: Machine) -> HardwareProfile:
    profile = best_profile(found)
    assert profile is not None
    assert absurdity(profile) == ""
    return profile


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (gpu("1002:747e:c8"), "rx-7800-xt"),
        (gpu("1002:747e:ff"), "rx-7700-xt"),
        (gpu("1002:747e:d8", 12 * GIB), "rx-7700-xt"),  # a laptop's: nobody listed it, the slowest of the chip
        (gpu("1002:73bf:c1"), "rx-6800-xt"),
        (gpu("1002:73bf", 16 * GIB), "rx-6800"),  # revision unknown: equals by memory, then by name
        (gpu("1002:7590:c0", 8 * GIB), "rx-9060-xt-8gb"),
        (gpu("1002:7590:c0", 16 * GIB), "rx-9060-xt-16gb"),
        (gpu("1002:7590:c0"), "rx-9060-xt-8gb"),  # memory unknown: the careful one
        (gpu("10de:2d04", 16 * GIB), "rtx-5060-ti-16gb"),
        (gpu("10de:2504:a1", 12 * GIB), "rtx-3060"),
        (gpu("10de:ffff", 24 * GIB, name="NVIDIA GeForce RTX 4090"), "rtx-4090"),
        (gpu("10de:2520", 6 * GIB, name="NVIDIA GeForce RTX 3060 Laptop GPU"), "rtx-3060-laptop"),
        (gpu("10de:1f95", 4 * GIB, name="NVIDIA GeForce GTX 1650 Ti"), ""),
        (gpu("8086:e20b:00"), "arc-b580"),
        (gpu("8086:9a49"), ""),
        (Gpu("Apple", 0, 32 * GIB, vendor_id=0x106B, name="Apple M2 Max"), "apple-m2-max"),
        (Gpu("Apple", 0, 32 * GIB, vendor_id=0x106B, name="Apple M9"), ""),
        (Gpu("other", 0), ""),
    ],
)
def test_cards_are_recognised(found: Gpu, name: str) -> None:
    assert name_of(found) == name


def test_a_card_is_called_by_its_own_name_only() -> None:
    assert title_of(gpu("1002:747e:c8")) == "AMD Radeon RX 7800 XT"
    assert title_of(gpu("1002:747e:d8")) == ""  # planned like another card, but it is none
    assert title_of(gpu("10de:2520", name="NVIDIA GeForce RTX 3060 Laptop GPU")).endswith("Laptop GPU")


def test_the_reference_machine(tmp_path: Path) -> None:
    trees.radeon_desktop(tmp_path)
    found = msgspec.structs.replace(machine.detect(tmp_path), system="Linux 6.12")
    profile = best(found)
    assert profile.name == "rx-7800-xt"
    assert profile.memory_bytes == 17163091968
    assert profile.host_bytes == 32_000_000 * 1024
    assert (profile.link, profile.pinned_rate) == ("PCIe 4.0 x16", 25e9)  # at rest it is slower; plans do not mind
    assert profile.headroom_bytes == 2_500_000_000
    assert profile.sources["memory_bytes"] == "detected on this machine"
    assert profile.sources["matmul_rate"] == load("rx-7800-xt").sources["matmul_rate"]
    windows = msgspec.structs.replace(found, system="Windows 11")
    assert best(windows).headroom_bytes == 1_500_000_000


@pytest.mark.parametrize(
    ("link", "words", "pinned", "staged"),
    [
        (Link(3, 16), "PCIe 3.0 x16", 12e9, 12e9),
        (Link(4, 8), "PCIe 4.0 x8", 12.5e9, 12.5e9),
        (Link(3, 4), "PCIe 3.0 x4", 3e9, 3e9),
        (Link(5, 16), "PCIe 4.0 x16", 25e9, 13e9),
        (None, "PCIe 4.0 x16", 25e9, 13e9),
    ],
)
def test_a_slow_slot_slows_the_link(link: Link | None, words: str, pinned: float, staged: float) -> None:
    profile = best(with_gpus(gpu("10de:2504", 12 * GIB, link)))
    assert (profile.link, profile.pinned_rate, profile.staged_rate) == (words, pinned, staged)
    assert profile.pageable_rate == pytest.approx(pinned / 3, rel=1e-3)
    assert profile.link_rate(pinned=False) == staged


def test_the_card_counts_beside_the_processors_graphics() -> None:
    small, card = gpu("1002:164e", 512 * 2**20, gtt_bytes=16 * GIB), gpu("10de:2504", 12 * GIB)
    assert best(with_gpus(small, card)).name == "rtx-3060"
    assert best(with_gpus(card, gpu("10de:2204", 24 * GIB))).name == "rtx-3090"
    assert best(with_gpus(gpu("1002:1586:c1", 512 * 2**20, gtt_bytes=64 * GIB), card)).name == "rtx-3060"


def test_a_card_that_nobody_described_has_no_profile() -> None:
    assert best_profile(with_gpus(gpu("10de:1f95", 4 * GIB))) is None
    assert best_profile(with_gpus(gpu("1002:731f", 8 * GIB))) is None
    assert best(with_gpus(gpu("10de:1f95", 4 * GIB), gpu("10de:2504", 12 * GIB))).name == "rtx-3060"


def test_shared_memory_of_amd_is_what_the_driver_reaches() -> None:
    # 128 GB, of which half a gigabyte was set aside at boot and half the rest may be mapped
    half = best(with_gpus(gpu("1002:1586:c1", GIB // 2, gtt_bytes=62 * GIB), memory_bytes=124 * GIB))
    assert half.unified
    assert half.memory_bytes == GIB // 2 + 62 * GIB
    assert half.headroom_bytes == 1_500_000_000
    # all of it may be mapped: something is left to the system nevertheless
    whole = best(with_gpus(gpu("1002:1586:c1", GIB // 2, gtt_bytes=124 * GIB), memory_bytes=124 * GIB))
    assert whole.headroom_bytes == 4_000_000_000
    # a board of 16 GB with 8 set aside
    board = best(with_gpus(gpu("1002:13fe:00", 8 * GIB, gtt_bytes=4 * GIB), memory_bytes=8 * GIB))
    assert (board.name, board.memory_bytes, board.host_bytes) == ("bc-250", 12 * GIB, 8 * GIB)


def test_shared_memory_of_apple_is_the_hosts() -> None:
    chip = Gpu("Apple", 0, 96 * GIB, vendor_id=0x106B, name="Apple M2 Max")
    profile = best(with_gpus(chip, memory_bytes=96 * GIB, system="Darwin 25"))
    assert (profile.name, profile.memory_bytes, profile.headroom_bytes) == ("apple-m2-max", 96 * GIB, 24 * GIB)


@pytest.mark.parametrize("gpus", [(), (gpu("8086:9a49"),), (Gpu("other", 0x1111),), (gpu("1002:164e", GIB // 2),)])
def test_without_a_card_the_processor_computes(gpus: tuple[Gpu, ...]) -> None:
    profile = best(with_gpus(*gpus))
    assert (profile.name, profile.vendor, profile.kind, profile.unified) == ("cpu", "cpu", "host", True)
    assert profile.memory_bytes == profile.host_bytes == 64 * GIB
    assert set(profile.matmul_rate) == {"F32"}
    assert profile.decode_rate["Q8_0"] > 0
    assert not profile.calibrated
    assert all(text.startswith(("assumed", "detected", "a processor")) for text in profile.sources.values())


def test_a_machine_of_which_nothing_is_known() -> None:
    best(Machine("", "", 0, 0, 0, ()))
    best(with_gpus(gpu("1002:747e:c8"), memory_bytes=0))


@pytest.mark.skipif(not hasattr(os, "major"), reason="Linux' device numbers")
def test_the_disk_counts_where_a_folder_is_given(tmp_path: Path) -> None:
    profile = best_profile(with_gpus(gpu("1002:747e:c8")), tmp_path)
    assert profile is not None
    assert profile.sources["disk_rate"] == "detected on this machine"
