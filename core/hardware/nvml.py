"""What NVIDIA's driver tells of its cards, through its management library by ctypes. No torch, no CUDA context."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator
from typing import Any

from core.hardware.link import Link
from core.hardware.pci import Gpu

_SUCCESS = 0
_NAME_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
_NVIDIA = 0x10DE


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Pci(ctypes.Structure):
    """nvmlPciInfo_t; `device_id` holds the device in its upper and the vendor in its lower 16 bits."""

    _fields_ = (
        ("bus_id_legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("device_id", ctypes.c_uint),
        ("subsystem_id", ctypes.c_uint),
        ("bus_id", ctypes.c_char * 32),
    )


def _candidates() -> list[str]:
    if platform.system() == "Windows":
        windows = os.environ.get("WINDIR", r"C:\Windows")
        return [rf"{windows}\System32\nvml.dll"]
    # the second is where WSL keeps what Windows lends it
    return ["libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1"]


def cards(library: Any = None) -> list[Gpu]:
    """NVIDIA's cards, in the driver's order; none where its library is missing or does not answer.

    Args:
        library: the loaded library; by default it is looked for.
    """
    with _session(library) as nvml:
        if nvml is None:
            return []
        try:
            count = ctypes.c_uint()
            if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != _SUCCESS:
                return []
            found = [_card(nvml, index) for index in range(min(count.value, 64))]
        except AttributeError:  # a driver so old that a function is missing
            return []
    return [card for card in found if card]


@contextlib.contextmanager
def _session(library: Any) -> Iterator[Any]:
    for name in [] if library else _candidates():
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    try:
        started = library is not None and library.nvmlInit_v2() == _SUCCESS
    except (AttributeError, OSError):
        started = False
    try:
        yield library if started else None
    finally:
        if started:
            library.nvmlShutdown()


def _card(nvml: Any, index: int) -> Gpu | None:
    handle, memory, pci = ctypes.c_void_p(), _Memory(), _Pci()
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != _SUCCESS:
        return None
    name = ctypes.create_string_buffer(_NAME_BYTES)
    nvml.nvmlDeviceGetName(handle, name, _NAME_BYTES)
    nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    nvml.nvmlDeviceGetPciInfo_v3(handle, ctypes.byref(pci))
    return Gpu(
        vendor="NVIDIA",
        device_id=pci.device_id >> 16,
        vram_bytes=memory.total,
        vram_used_bytes=memory.used,
        link=_link(nvml, handle, "Max"),
        link_now=_link(nvml, handle, "Curr"),
        vendor_id=_NVIDIA,
        # NVML writes the domain with eight digits, sysfs with four
        address=pci.bus_id.decode(errors="replace").lower()[-12:],
        name=name.value.decode(errors="replace"),
    )


def _link(nvml: Any, handle: ctypes.c_void_p, which: str) -> Link | None:
    """ "Max" is what the card and the slot that it is in can do together, "Curr" what they do now."""
    values = []
    for what in ("Generation", "Width"):
        value = ctypes.c_uint()
        if getattr(nvml, f"nvmlDeviceGet{which}PcieLink{what}")(handle, ctypes.byref(value)) != _SUCCESS:
            return None
        values.append(value.value)
    generation, lanes = values
    return Link(generation, lanes) if 1 <= generation <= 6 and 1 <= lanes <= 32 else None
