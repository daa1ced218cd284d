"""This machine without torch: processor, memory (container limits included) and display adapters."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

VENDORS = {0x1002: "AMD", 0x10DE: "NVIDIA", 0x8086: "Intel"}
_DISPLAY_CLASS = 0x03  # PCI base class "display controller" (PCI Code and ID Assignment Specification)


class Gpu(msgspec.Struct, frozen=True):
    """A display adapter by its PCI ids; `vram_bytes` where the driver tells (amdgpu's sysfs), else 0."""

    vendor: str
    device_id: int
    vram_bytes: int = 0


class Machine(msgspec.Struct, frozen=True):
    """What a run depends on and a report names. Bytes are of host memory."""

    system: str
    processor: str
    cores: int
    memory_bytes: int
    free_memory_bytes: int
    gpus: tuple[Gpu, ...]


def detect() -> Machine:
    """Look at this machine; takes milliseconds and never fails: what cannot be read is left empty."""
    total, free = memory()
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=_cores(),
        memory_bytes=total,
        free_memory_bytes=free,
        gpus=tuple(_gpus(Path("/sys/bus/pci/devices"))),
    )


def memory() -> tuple[int, int]:
    """Bytes of host memory: (total, available), the smaller of the system's and the container's limit."""
    total, free = _system_memory()
    limit, used = _read_int(Path("/sys/fs/cgroup/memory.max")), _read_int(Path("/sys/fs/cgroup/memory.current"))
    if limit and limit < total:
        total, free = limit, min(free, max(0, limit - (used or 0)))
    return total, free


def _system_memory() -> tuple[int, int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
        return values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, ValueError):
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total // 2  # macOS tells no simple "available"; half is the usual working assumption
    return _windows_memory()


def _windows_memory() -> tuple[int, int]:
    import ctypes

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("available", ctypes.c_ulonglong),
            ("rest", ctypes.c_ulonglong * 5),
        )

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll", None)
    if kernel is None or not kernel.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0, 0
    return int(status.total), int(status.available)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus(devices: Path) -> list[Gpu]:
    gpus = []
    for device in sorted(devices.iterdir()) if devices.is_dir() else []:
        kind = _read_int(device / "class")
        if kind is not None and kind >> 16 == _DISPLAY_CLASS:
            vendor = VENDORS.get(_read_int(device / "vendor") or 0, "other")
            vram = _read_int(device / "mem_info_vram_total") or 0
            gpus.append(Gpu(vendor, _read_int(device / "device") or 0, vram))
    return gpus


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text().strip(), 0)
    except (OSError, ValueError):
        return None
