"""Parts of /sys and /proc as real files below a folder, laid out as Linux does."""

from __future__ import annotations

from pathlib import Path

Files = dict[str, str]


def write(folder: Path, files: Files) -> Path:
    """Small files, each ending in a newline as the kernel's do."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    return folder


def device(root: Path, chain: dict[str, Files]) -> Path:
    """A PCI device with the ports above it, outermost first, and the entries of the bus that link to them."""
    bus = root / "sys/bus/pci/devices"
    bus.mkdir(parents=True, exist_ok=True)
    folder = root / "sys/devices/pci0000:00"
    for address, files in chain.items():
        folder = write(folder / address, files) if files else folder / address
        folder.mkdir(parents=True, exist_ok=True)
        (bus / address).symlink_to(folder)
    return folder


def port(maximum: str, width: int, current: str | None = None, current_width: int | None = None) -> Files:
    """A bridge. Speeds as sysfs writes them, e.g. "16.0 GT/s PCIe"."""
    return {
        "class": "0x060400",
        "vendor": "0x1022",
        "device": "0x1483",
        **ends(maximum, width, current, current_width),
    }


def ends(maximum: str, width: int, current: str | None = None, current_width: int | None = None) -> Files:
    """The link files of one end."""
    return {
        "max_link_speed": maximum,
        "max_link_width": str(width),
        "current_link_speed": current or maximum,
        "current_link_width": str(current_width or width),
    }


def radeon_desktop(root: Path) -> None:
    """A desktop with an RX 7800 XT (its own switch included) at rest, and the sound function beside it."""
    root_port = port("16.0 GT/s PCIe", 16, "2.5 GT/s PCIe")
    device(
        root,
        {
            "0000:00:01.1": root_port,
            "0000:01:00.0": port("16.0 GT/s PCIe", 16, "2.5 GT/s PCIe"),
            "0000:02:00.0": port("16.0 GT/s PCIe", 16),
            "0000:03:00.0": {
                "class": "0x030000",
                "vendor": "0x1002",
                "device": "0x747e",
                "revision": "0xc8",
                "mem_info_vram_total": "17163091968",
                "mem_info_vram_used": "1204219904",
                "mem_info_gtt_total": "16700000000",
                "mem_info_gtt_used": "60000000",
                **ends("16.0 GT/s PCIe", 16),
            },
        },
    )
    write(root / "sys/bus/pci/devices/0000:03:00.1", {"class": "0x040300", "vendor": "0x1002", "device": "0xab30"})
    host(root, 32_000_000)


def host(root: Path, kilobytes: int, available: int | None = None) -> None:
    """/proc/meminfo and /proc/cpuinfo."""
    lines = [
        f"MemTotal:       {kilobytes} kB",
        f"MemAvailable:   {available or kilobytes // 2} kB",
        "HugePages_Total: 0",
    ]
    write(root / "proc", {"meminfo": "\n".join(lines), "cpuinfo": "processor\t: 0\nmodel name\t: A Processor"})
