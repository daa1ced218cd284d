"""The class of the disk under a folder, in trees like Linux' sysfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.hardware.disk import READ_RATES, disk_class, read_rate
from tests.core.hardware import trees

pytestmark = pytest.mark.skipif(not hasattr(os, "major"), reason="Linux' device numbers")


def _number(folder: Path) -> str:
    device = folder.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def _disk(root: Path, path: str, rotational: str, folder: Path, partition: str = "") -> None:
    disk = trees.write(root / "sys/devices" / path, {"queue/rotational": rotational})
    held = disk
    if partition:
        held = trees.write(disk / partition, {"partition": "1"})
    (root / "sys/dev/block").mkdir(parents=True, exist_ok=True)
    (root / "sys/dev/block" / _number(folder)).symlink_to(held)


@pytest.mark.parametrize(
    ("path", "rotational", "partition", "expected"),
    [
        ("pci0000:00/nvme/nvme0/nvme0n1", "0", "nvme0n1p2", "nvme"),
        ("pci0000:00/ata1/block/sda", "0", "sda1", "ssd"),
        ("pci0000:00/ata1/block/sda", "1", "", "disk"),
        ("pci0000:00/usb2/2-1/block/sdb", "0", "sdb1", "disk"),
        ("platform/mmc_host/mmc0/block/mmcblk0", "0", "mmcblk0p1", "disk"),
        ("pci0000:00/virtio1/block/vda", "1", "vda1", "unknown"),
        ("pci0000:00/ata1/block/sda", "nonsense", "", "unknown"),
    ],
)
def test_kinds_of_disks(tmp_path: Path, path: str, rotational: str, partition: str, expected: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    root = tmp_path / "root"
    _disk(root, path, rotational, folder, partition)
    assert disk_class(folder, root) == expected
    assert disk_class(folder / "not" / "there" / "yet", root) == expected
    assert read_rate(folder, root) == READ_RATES[expected]


def test_through_encryption_and_an_array_to_the_slowest_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fast = trees.write(root / "sys/devices/nvme/nvme0n1", {"nvme0n1p3/partition": "3"})
    slow = trees.write(root / "sys/devices/ata/sda", {"queue/rotational": "1"})
    array = trees.write(root / "sys/devices/virtual/block/md0", {"queue/rotational": "0"})
    crypt = trees.write(root / "sys/devices/virtual/block/dm-0", {"queue/rotational": "0"})
    for holder, parts in ((crypt, [array]), (array, [fast / "nvme0n1p3", slow])):
        (holder / "slaves").mkdir()
        for part in parts:
            (holder / "slaves" / part.name).symlink_to(part)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block" / _number(tmp_path)).symlink_to(crypt)
    assert disk_class(tmp_path, root) == "disk"


def test_a_file_system_with_a_number_of_its_own_is_found_by_its_mount(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "my models"
    folder.mkdir()
    disk = trees.write(root / "sys/devices/nvme/nvme1n1", {"nvme1n1p1/partition": "1"})
    (root / "sys/class/block").mkdir(parents=True)
    (root / "sys/class/block/nvme1n1p1").symlink_to(disk / "nvme1n1p1")
    point = str(folder).replace(" ", "\\040")
    lines = [
        "22 1 0:20 / / rw - ext4 /dev/sda1 rw",
        f"30 22 0:35 /@ {point} rw,relatime shared:1 - btrfs /dev/nvme1n1p1 rw",
    ]
    trees.write(root, {"proc/self/mountinfo": "\n".join(["short", *lines])})
    assert disk_class(folder, root) == "nvme"
    assert disk_class(tmp_path, root) == "unknown"  # on /dev/sda1, of which sysfs has nothing


def test_nothing_known(tmp_path: Path) -> None:
    assert disk_class(tmp_path, tmp_path / "empty") == "unknown"
    assert disk_class(tmp_path) in READ_RATES
