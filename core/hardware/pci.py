"""Display adapters as Linux' sysfs shows them: ids, memory, and the link down to the slot. No torch, no root."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from core.hardware.link import Link, from_sysfs, slowest
from core.hardware.sysfs import read_int, read_text

VENDORS = {0x1002: "AMD", 0x10DE: "NVIDIA", 0x8086: "Intel", 0x106B: "Apple"}
_DISPLAY_CLASS = 0x03  # PCI base class "display controller" (PCI Code and ID Assignment Specification)
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
# A card whose memory is all in its address window (Resizable BAR) has a window of its size; smaller ones say nothing.
_LEAST_WINDOW_BYTES = 4 * 1024**3


class Gpu(msgspec.Struct, frozen=True):
    """A display adapter. Bytes are 0 where nobody tells.

    `link` is what card and slot can do together, for planning; `link_now` what they do at the moment, which is less
    while a card rests. `gtt` is host memory that an AMD card may map: on an APU it is as good as video memory.
    """

    vendor: str
    device_id: int
    vram_bytes: int = 0
    vram_used_bytes: int = 0
    gtt_bytes: int = 0
    gtt_used_bytes: int = 0
    link: Link | None = None
    link_now: Link | None = None
    vendor_id: int = 0
    revision: int = -1  # -1: not known
    address: str = ""  # PCI address, e.g. "0000:03:00.0"
    name: str = ""  # as the driver calls it, where it does

    @property
    def pci_id(self) -> str:
        """Vendor and device as the pci.ids database writes them, e.g. "1002:747e"."""
        return f"{self.vendor_id:04x}:{self.device_id:04x}"


def adapters(root: Path = Path("/")) -> list[Gpu]:
    """The display adapters below `root`/sys/bus/pci/devices, by address. What cannot be read is left empty."""
    folder = root / "sys/bus/pci/devices"
    try:
        devices = sorted(folder.iterdir())
    except OSError:
        return []
    return [_gpu(device) for device in devices if (read_int(device / "class") or 0) >> 16 == _DISPLAY_CLASS]


def _gpu(device: Path) -> Gpu:
    vendor_id = read_int(device / "vendor") or 0
    vendor = VENDORS.get(vendor_id, "other")
    revision = read_int(device / "revision")
    # amdgpu's files (kernel documentation, "Misc AMDGPU driver information"); the others have none
    vram = read_int(device / "mem_info_vram_total") or 0
    if not vram and vendor == "Intel":
        vram = _window_bytes(device / "resource")
    return Gpu(
        vendor=vendor,
        device_id=read_int(device / "device") or 0,
        vram_bytes=vram,
        vram_used_bytes=read_int(device / "mem_info_vram_used") or 0,
        gtt_bytes=read_int(device / "mem_info_gtt_total") or 0,
        gtt_used_bytes=read_int(device / "mem_info_gtt_used") or 0,
        link=_chain(device, "max"),
        link_now=_chain(device, "current"),
        vendor_id=vendor_id,
        revision=-1 if revision is None else revision,
        address=device.name,
    )


def _chain(device: Path, which: str) -> Link | None:
    """The link that bounds the way from the root port to a device.

    A card may have a switch of its own before the graphics function (AMD's do), whose inner link is always the fastest,
    so the function's own files say nothing of the slot. From the root port downwards ports face down and up in turn:
    each pair is a link, and it does what both of its ends can.
    """
    try:
        parts = device.resolve().parts
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return None
    chain = [Path(*parts[: at + 1]) for at, part in enumerate(parts) if _ADDRESS.fullmatch(part)]
    if not chain:  # no topology to follow, as in some virtual machines
        return _end(device, which)
    links = []
    for upper, lower in zip(chain[::2], chain[1::2], strict=False):
        ends = [end for end in (_end(upper, which), _end(lower, which)) if end]
        if ends:
            links.append(ends[0].joined(ends[-1]))
    if len(chain) % 2:  # a function without a port above it
        links += [end for end in [_end(chain[-1], which)] if end]
    return slowest(links)


def _end(device: Path, which: str) -> Link | None:
    return from_sysfs(read_text(device / f"{which}_link_speed"), read_text(device / f"{which}_link_width"))


def _window_bytes(resource: Path) -> int:
    """The largest address window of a card, where it is large enough to hold all of its memory."""
    largest = 0
    for line in read_text(resource).splitlines()[:6]:  # the six base address registers; start, end, flags
        try:
            start, end = (int(word, 16) for word in line.split()[:2])
        except ValueError:
            continue
        largest = max(largest, end - start + 1)
    return largest if largest >= _LEAST_WINDOW_BYTES else 0
