"""This machine without torch: processor, memory (container limits included) and display adapters."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

from core.hardware import cgroup, nvml, pci, registry, sysctl
from core.hardware.pci import Gpu

_ROOT = Path("/")


class Machine(msgspec.Struct, frozen=True):
    """What a run depends on and a report names. Bytes are of host memory."""

    system: str
    processor: str
    cores: int
    memory_bytes: int
    free_memory_bytes: int
    gpus: tuple[Gpu, ...]


def detect(root: Path = _ROOT) -> Machine:
    """Look at this machine; never fails: what cannot be read is left empty.

    It takes milliseconds, and up to a second where NVIDIA's driver has to wake first.

    Args:
        root: where /proc and /sys are. Libraries and system calls are only asked at the real one.
    """
    total, free = memory(root)
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(root),
        cores=_cores(),
        memory_bytes=total,
        free_memory_bytes=free,
        gpus=tuple(_gpus(root)),
    )


def memory(root: Path = _ROOT) -> tuple[int, int]:
    """Bytes of host memory: (total, available), the smallest of the system's and the containers' limits."""
    total, free = _system_memory(root)
    for limit, used in cgroup.limits(root):
        if limit < total:
            total, free = limit, min(free, max(0, limit - used))
    return total, free


def _system_memory(root: Path) -> tuple[int, int]:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
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


def _processor(root: Path) -> str:
    try:
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return sysctl.text("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus(root: Path) -> list[Gpu]:
    found = pci.adapters(root)
    if root != _ROOT:
        return found
    return told_by_driver(found or registry.adapters() or sysctl.adapters(), nvml.cards())


def told_by_driver(found: list[Gpu], cards: list[Gpu]) -> list[Gpu]:
    """The adapters with what NVIDIA's driver says of its own, which knows their memory and the slot.

    A card is known again by its address, or, where the system gave none, by its ids. The driver's cards that nobody
    else listed are added: under WSL they are on no bus.
    """
    waiting = list(cards)
    merged = []
    for gpu in found:
        same = next((card for card in waiting if _same(gpu, card)), None)
        if same:
            waiting.remove(same)
            same = msgspec.structs.replace(same, revision=gpu.revision)
        merged.append(same or gpu)
    return merged + waiting


def _same(gpu: Gpu, card: Gpu) -> bool:
    return gpu.address[-12:] == card.address if gpu.address else gpu.pci_id == card.pci_id
