"""What macOS tells of a machine: its chip and its one memory. No torch."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform

from core.hardware.pci import Gpu

_APPLE = 0x106B


def adapters() -> list[Gpu]:
    """The graphics of an Apple chip, which share the host's memory; none on other machines."""
    chip = text("machdep.cpu.brand_string")
    return [chip_graphics(chip, number("hw.memsize"))] if chip.startswith("Apple ") else []


def chip_graphics(chip: str, memory_bytes: int) -> Gpu:
    """The graphics of a chip called, say, "Apple M2 Max"."""
    return Gpu(vendor="Apple", device_id=0, vram_bytes=memory_bytes, vendor_id=_APPLE, name=chip)


def text(name: str) -> str:
    """A sysctl's string; empty where there is none."""
    return _read(name).rstrip(b"\0").decode(errors="replace").strip()


def number(name: str) -> int:
    """A sysctl's integer; 0 where there is none."""
    return int.from_bytes(_read(name)[:8], "little")


def _read(name: str) -> bytes:
    if platform.system() != "Darwin":
        return b""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("c") or "libc.dylib")
        size = ctypes.c_size_t()
        if library.sysctlbyname(name.encode(), None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
            return b""
        buffer = ctypes.create_string_buffer(size.value)
        if library.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
            return b""
        return buffer.raw[: size.value]
    except (OSError, AttributeError):
        return b""
