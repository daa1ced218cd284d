"""How fast the disk under a folder is: its class from Linux' sysfs, and a rate to plan with. No torch."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from core.hardware.sysfs import read_int, read_text

# Bytes per second of one thread's large reads through the page cache. Assumed until measured: NVMe drives state
# 3.5 GB/s and more, of which one thread that also copies sees about 2; SATA's third generation carries 0.55 after
# encoding; a turning disk 0.15 to 0.25 at its rim. Of an unknown one no more than of SATA.
READ_RATES = {"nvme": 2e9, "ssd": 500e6, "disk": 150e6, "unknown": 500e6}
_SLOW_BUSES = ("/usb", "/mmc_host/")


def disk_class(folder: Path, root: Path = Path("/")) -> str:
    """The class of the disk under a folder, or under the nearest parent that exists.

    Returns:
        "nvme", "ssd", "disk" (one that turns, or is behind USB or a card reader) or "unknown".
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if platform.system() == "Darwin" and root == Path("/"):
        return "nvme"  # every Mac that torch still supports has one
    device = _block_device(folder, root)
    classes = {_class_of(disk) for disk in _physical(device, root)} if device else {"unknown"}
    return max(classes, key=lambda name: -READ_RATES[name], default="unknown")


def read_rate(folder: Path, root: Path = Path("/")) -> float:
    """Bytes per second that reading from a folder is assumed to reach."""
    return READ_RATES[disk_class(folder, root)]


def _block_device(folder: Path, root: Path) -> Path | None:
    """The folder in sysfs of the block device that holds a folder."""
    try:
        number = folder.stat().st_dev
        device = root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    except (OSError, AttributeError):  # AttributeError: Windows has no major numbers
        return None
    if device.exists():
        return device.resolve()
    # btrfs, overlays and ZFS have device numbers of their own; the mount's source may name a block device
    source = _mount_source(folder, root)
    named = root / "sys/class/block" / source.removeprefix("/dev/").replace("/", "!")
    return named.resolve() if source.startswith("/dev/") and named.exists() else None


def _mount_source(folder: Path, root: Path) -> str:
    """What the innermost mount above a folder was mounted from (proc(5), /proc/pid/mountinfo)."""
    best, source = -1, ""
    try:
        place = folder.resolve()
    except (OSError, RuntimeError):
        return ""
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        words, tail = fields.split(" "), rest.split(" ")
        if len(words) < 5 or len(tail) < 2:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])  # a space is written \040
        if place.is_relative_to(point) and len(point) > best:
            best, source = len(point), tail[1]
    return source


def _physical(device: Path, root: Path, depth: int = 8) -> list[Path]:
    """The whole disks under a device: through partitions, encryption, logical volumes and arrays."""
    if (device / "partition").exists():
        device = device.parent
    try:
        below = sorted((device / "slaves").iterdir()) if depth else []
    except OSError:
        below = []
    if not below:
        return [device]
    return [disk for part in below for disk in _physical(part.resolve(), root, depth - 1)]


def _class_of(disk: Path) -> str:
    name = disk.name
    if name.startswith("nvme"):
        return "nvme"
    if re.match(r"(vd|xvd|loop|zram|ram)", name):
        return "unknown"  # a virtual machine's disk says it turns, whatever it stands on
    turning = read_int(disk / "queue/rotational")
    if turning is None:
        return "unknown"
    return "disk" if turning or any(bus in disk.as_posix() for bus in _SLOW_BUSES) else "ssd"
