"""Display adapters are found in trees like Linux' sysfs: desktops, laptops, processors' graphics, virtual machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.hardware.link import Link
from core.hardware.pci import adapters
from tests.core.hardware import trees


def test_a_desktop_card_at_rest(tmp_path: Path) -> None:
    trees.radeon_desktop(tmp_path)
    (gpu,) = adapters(tmp_path)
    assert (gpu.vendor, gpu.pci_id, gpu.revision, gpu.address) == ("AMD", "1002:747e", 0xC8, "0000:03:00.0")
    assert (gpu.vram_bytes, gpu.vram_used_bytes) == (17163091968, 1204219904)
    assert (gpu.gtt_bytes, gpu.gtt_used_bytes) == (16700000000, 60000000)
    assert gpu.link == Link(4, 16)
    assert gpu.link_now == Link(1, 16)  # it rests; plans go by what it can


def test_the_slot_bounds_the_card_though_the_card_does_not_say_so(tmp_path: Path) -> None:
    trees.device(
        tmp_path,
        {
            "0000:00:03.1": trees.port("8.0 GT/s PCIe", 8),
            "0000:0a:00.0": trees.port("16.0 GT/s PCIe", 16),
            "0000:0b:00.0": trees.port("16.0 GT/s PCIe", 16),
            "0000:0c:00.0": {"class": "0x030000", "vendor": "0x1002", **trees.ends("16.0 GT/s PCIe", 16)},
        },
    )
    assert adapters(tmp_path)[0].link == Link(3, 8)


def test_each_link_of_a_chain_is_judged_by_itself(tmp_path: Path) -> None:
    # a narrow fast link above a wide slow one: 8 lanes of generation 5 carry as much as 16 of generation 4
    trees.device(
        tmp_path,
        {
            "0000:00:01.0": trees.port("32.0 GT/s PCIe", 8),
            "0000:01:00.0": trees.port("32.0 GT/s PCIe", 16),
            "0000:02:00.0": trees.port("16.0 GT/s PCIe", 16),
            "0000:03:00.0": {"class": "0x030000", "vendor": "0x1002", **trees.ends("16.0 GT/s PCIe", 16)},
        },
    )
    link = adapters(tmp_path)[0].link
    assert link is not None
    assert link.pinned_rate == 25e9


def test_a_laptop_with_two_adapters_and_no_driver_for_one(tmp_path: Path) -> None:
    intel = {"class": "0x030000", "vendor": "0x8086", "device": "0x9a49", "revision": "0x01"}
    trees.device(tmp_path, {"0000:00:02.0": intel})
    nvidia = {"class": "0x030200", "vendor": "0x10de", "device": "0x2520", "revision": "0xa1"}
    trees.device(
        tmp_path,
        {
            "0000:00:06.0": trees.port("16.0 GT/s PCIe", 8, "2.5 GT/s PCIe"),
            "0000:01:00.0": {**nvidia, **trees.ends("16.0 GT/s PCIe", 16, "2.5 GT/s PCIe", 8)},
        },
    )
    first, second = adapters(tmp_path)
    assert (first.vendor, first.link, first.vram_bytes) == ("Intel", None, 0)
    assert (second.vendor, second.vram_bytes) == ("NVIDIA", 0)
    assert (second.link, second.link_now) == (Link(4, 8), Link(1, 8))


def test_the_graphics_of_a_processor(tmp_path: Path) -> None:
    files = {"class": "0x038000", "vendor": "0x1002", "device": "0x1586", "revision": "0xc1"}
    memory = {"mem_info_vram_total": "536870912", "mem_info_gtt_total": "66571993088"}
    trees.device(tmp_path, {"0000:00:08.1": trees.port("Unknown", 0), "0000:c5:00.0": {**files, **memory}})
    (gpu,) = adapters(tmp_path)
    assert (gpu.vram_bytes, gpu.gtt_bytes, gpu.link) == (536870912, 66571993088, None)


def test_an_intel_card_says_its_memory_by_its_window(tmp_path: Path) -> None:
    lines = [
        "0x0000004000000000 0x0000004000ffffff 0x000000000014220c",
        "0x6000000000 0x63ffffffff 0x14220c",
        "0x0 0x0 0x0",
    ]
    arc = {"class": "0x030000", "vendor": "0x8086", "device": "0x56a0", "resource": "\n".join(lines)}
    trees.device(tmp_path, {"0000:03:00.0": arc})
    assert adapters(tmp_path)[0].vram_bytes == 16 * 1024**3
    small = {**arc, "resource": "0x0 0xfffffff 0x14220c\nnonsense\n\n0x1"}
    trees.device(tmp_path, {"0000:04:00.0": small})
    assert adapters(tmp_path)[1].vram_bytes == 0


def test_what_cannot_be_read_is_left_empty(tmp_path: Path) -> None:
    assert adapters(tmp_path) == []
    bus = tmp_path / "sys/bus/pci/devices"
    trees.write(bus / "0000:04:00.0", {"class": "nonsense", "vendor": "0x10de"})
    trees.write(bus / "0000:05:00.0", {"class": "0x030000"})
    trees.write(bus / "0000:06:00.0", {"class": "0x030000", "vendor": "x", "device": "", "max_link_speed": "16.0 GT/s"})
    (bus / "0000:07:00.0").symlink_to(bus / "0000:07:00.0")
    (bus / "0000:08:00.0" / "class").mkdir(parents=True)
    (bus / "0000:09:00.0").symlink_to(tmp_path / "nowhere")
    found = adapters(tmp_path)
    assert [gpu.address for gpu in found] == ["0000:05:00.0", "0000:06:00.0"]
    assert {gpu.vendor for gpu in found} == {"other"}
    assert {gpu.link for gpu in found} == {None}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"0x", b"99999999999999999999999999"])
def test_odd_bytes_do_no_harm(tmp_path: Path, content: bytes) -> None:
    folder = trees.write(tmp_path / "sys/bus/pci/devices/0000:05:00.0", {"class": "0x030000"})
    for name in ("vendor", "device", "revision", "mem_info_vram_total", "max_link_speed", "max_link_width", "resource"):
        (folder / name).write_bytes(content)
    (gpu,) = adapters(tmp_path)
    assert gpu.link is None
