"""Display adapters as Windows' registry lists them: ids, names and memory. No torch."""

from __future__ import annotations

import re
import sys
from typing import Any

from core.hardware.pci import VENDORS, Gpu

# The class of display adapters (system-defined device setup class GUID)
_CLASS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
_PCI = re.compile(
    r"PCI\\VEN_(?P<vendor>[0-9A-F]{4})&DEV_(?P<device>[0-9A-F]{4})(?:.*REV_(?P<revision>[0-9A-F]{2}))?", re.IGNORECASE
)


def adapters() -> list[Gpu]:
    """The adapters of Windows' registry; none on other systems, and what cannot be read is left empty."""
    found: list[Gpu] = []
    if sys.platform == "win32":
        import winreg

        for index in range(32):
            try:
                with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{_CLASS}\{index:04d}") as key:
                    values = {}
                    for name in ("MatchingDeviceId", "DriverDesc", "HardwareInformation.qwMemorySize"):
                        try:
                            values[name] = winreg.QueryValueEx(key, name)[0]
                        except OSError:
                            continue
            except OSError:
                continue
            gpu = adapter(values)
            if gpu and gpu not in found:
                found.append(gpu)
    return found


def adapter(values: dict[str, Any]) -> Gpu | None:
    """An adapter from the values of its registry key; None where it is no PCI device.

    `HardwareInformation.qwMemorySize` is a number, or its eight bytes where a driver wrote it as binary.
    """
    match = _PCI.match(str(values.get("MatchingDeviceId", "")))
    if not match:
        return None
    size = values.get("HardwareInformation.qwMemorySize", 0)
    vram = int.from_bytes(size[:8], "little") if isinstance(size, bytes) else size
    vendor_id, revision = int(match["vendor"], 16), match["revision"]
    return Gpu(
        vendor=VENDORS.get(vendor_id, "other"),
        device_id=int(match["device"], 16),
        vram_bytes=vram if isinstance(vram, int) and vram >= 0 else 0,
        vendor_id=vendor_id,
        revision=int(revision, 16) if revision else -1,
        name=str(values.get("DriverDesc", "")),
    )
