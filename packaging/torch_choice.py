"""Which build of torch fits this machine, from its PCI devices and drivers, before torch itself is there.

A build for the wrong GPU is gigabytes that fall back to the processor without a word, so each choice carries a reason.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qt_libraries import loads
from system_packages import SetupError

TORCH = "torch==2.13.0"
_PYTORCH = "https://download.pytorch.org/whl"
AMD, NVIDIA, INTEL = 0x1002, 0x10DE, 0x8086

# Free space to ask for, in bytes: unpacked packages, the download beside them, and some room.
_DISK = {"cpu": 3e9, "cuda": 12e9, "cuda126": 12e9, "rocm": 20e9, "xpu": 12e9, "mac": 3e9}
_PREFERENCE = ("cuda", "rocm", "cuda126", "xpu")

# Architecture by PCI device id (the amdgpu driver's table), used where the driver does not say it itself.
_AMD_ARCHITECTURES = (
    (0x738C, 0x738E, "gfx908"),
    (0x7408, 0x7410, "gfx90a"),
    (0x74A0, 0x74BF, "gfx942"),
    (0x75A0, 0x75AF, "gfx950"),
    (0x73A0, 0x73BF, "gfx1030"),
    (0x73C0, 0x73DF, "gfx1031"),
    (0x73E0, 0x73FF, "gfx1032"),
    (0x7420, 0x743F, "gfx1034"),
    (0x7440, 0x745F, "gfx1100"),
    (0x7460, 0x747F, "gfx1101"),
    (0x7480, 0x749F, "gfx1102"),
    (0x7550, 0x757F, "gfx1201"),
    (0x7580, 0x759F, "gfx1200"),
    (0x150E, 0x150E, "gfx1150"),
    (0x1586, 0x1586, "gfx1151"),
)
_CDNA = frozenset({"gfx908", "gfx90a", "gfx942", "gfx950"})
_RDNA = frozenset({"gfx1030", "gfx1100", "gfx1101", "gfx1102", "gfx1150", "gfx1151", "gfx1200", "gfx1201"})
# Same instructions as gfx1030 but not built for by name: the runtime is told to treat them as gfx1030.
_AS_GFX1030 = frozenset({"gfx1031", "gfx1032", "gfx1034"})
# Arc cards (Alchemist, Battlemage), the Arc parts of Core Ultra processors, and the data centre's Max series.
_ARC = ((0x5690, 0x56C1), (0xE200, 0xE2FF), (0x0BD0, 0x0BEF))
_ARC_BUILT_IN = frozenset({0x7D55, 0x7DD5, 0x7D51, 0x7DD1, 0x64A0})
_FIRST_TURING, _FIRST_MAXWELL = 0x1E00, 0x1340  # NVIDIA's device ids grow with the generations


@dataclass(frozen=True)
class Adapter:
    """A display adapter or accelerator by its PCI ids."""

    vendor: int
    device: int

    def __str__(self) -> str:
        names = {AMD: "AMD", NVIDIA: "NVIDIA", INTEL: "Intel"}
        return f"{names.get(self.vendor, 'unknown')} GPU {self.vendor:04x}:{self.device:04x}"


@dataclass(frozen=True)
class Drivers:
    """What of the adapters can be reached from here; a container often sees a card on the bus and cannot use it."""

    nvidia: bool = False
    nvidia_version: int | None = None
    amd: bool = False
    amd_architectures: dict[int, str] = field(default_factory=dict)
    intel: bool = False


@dataclass(frozen=True)
class TorchChoice:
    """A build of torch: pip's index for it (None: the configured one), why, bytes of disk, variables to run with."""

    build: str
    index: str | None
    reason: str
    disk_bytes: int
    environment: dict[str, str] = field(default_factory=dict)


def choose(system: str, machine: str, adapters: list[Adapter], drivers: Drivers) -> TorchChoice:
    """The build for a machine: `system` and `machine` as `platform.system()` and `platform.machine()` say them.

    Raises:
        SetupError: torch has no build for this kind of machine.
    """
    if system == "Darwin":
        if machine != "arm64":
            raise SetupError(f"{TORCH} has no build for Macs with Intel processors.")
        return make_choice("mac", system, "Apple's GPU is in the standard build")
    verdicts = [_verdict(adapter, system, machine, drivers) for adapter in adapters]
    usable = [verdict for verdict in verdicts if verdict.build]
    if not usable:
        telling = max(verdicts, key=lambda verdict: verdict.fixable, default=None)
        return make_choice("cpu", system, telling.reason if telling else "no GPU was found")
    best = min(usable, key=lambda verdict: _PREFERENCE.index(verdict.build))
    return make_choice(best.build, system, best.reason, best.environment)


def make_choice(build: str, system: str, reason: str, environment: dict[str, str] | None = None) -> TorchChoice:
    """The choice of a build by name: cpu, cuda, cuda126, rocm, xpu or mac."""
    index: str | None = {
        "cpu": f"{_PYTORCH}/cpu",
        "cuda126": f"{_PYTORCH}/cu126",
        "rocm": f"{_PYTORCH}/rocm7.2",
        "xpu": f"{_PYTORCH}/xpu",
    }.get(build)
    if build == "cuda" and system == "Windows":
        index = f"{_PYTORCH}/cu130"  # the package index carries only the CPU build for Windows
    return TorchChoice(build, index, reason, int(_DISK[build]), environment or {})


@dataclass(frozen=True)
class _Verdict:
    """What one adapter is good for; no `build` where it is unusable, `fixable` where its owner can help."""

    build: str
    reason: str
    environment: dict[str, str] = field(default_factory=dict)
    fixable: bool = False


def _verdict(adapter: Adapter, system: str, machine: str, drivers: Drivers) -> _Verdict:
    if adapter.vendor == NVIDIA:
        return _nvidia(adapter, drivers)
    if adapter.vendor in (AMD, INTEL) and machine.lower() not in ("x86_64", "amd64"):
        return _Verdict("", f"{adapter}: PyTorch builds for it on x86-64 only")
    if adapter.vendor == AMD:
        return _amd(adapter, system, drivers)
    if adapter.vendor == INTEL:
        return _intel(adapter, drivers)
    return _Verdict("", "no GPU that torch can use")


def _nvidia(adapter: Adapter, drivers: Drivers) -> _Verdict:
    if adapter.device < _FIRST_MAXWELL:
        return _Verdict("", f"{adapter} is older than Maxwell, which PyTorch no longer supports")
    if not drivers.nvidia:
        return _Verdict("", f"{adapter} is there but its driver is not; install it and run this again", fixable=True)
    if adapter.device < _FIRST_TURING:
        return _Verdict("cuda126", f"{adapter} is older than Turing, so CUDA 12.6")
    if drivers.nvidia_version is not None and drivers.nvidia_version < 580:
        return _Verdict("cuda126", f"{adapter} with driver {drivers.nvidia_version}, so CUDA 12.6 (CUDA 13 needs 580)")
    return _Verdict("cuda", f"{adapter}, CUDA 13")


def _amd(adapter: Adapter, system: str, drivers: Drivers) -> _Verdict:
    architecture = drivers.amd_architectures.get(adapter.device) or next(
        (name for first, last, name in _AMD_ARCHITECTURES if first <= adapter.device <= last), None
    )
    if architecture not in _CDNA | _RDNA | _AS_GFX1030:
        return _Verdict("", f"{adapter} is not of an architecture that PyTorch's ROCm 7.2 build supports (RDNA 2 to 4)")
    if system != "Linux":
        return _Verdict("", f"{adapter} ({architecture}): PyTorch's ROCm build is for Linux")
    if not drivers.amd:
        reason = f"{adapter} ({architecture}) is there but /dev/kfd is not; load amdgpu, or pass the device in"
        return _Verdict("", reason, fixable=True)
    environment = {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"} if architecture in _AS_GFX1030 else {}
    return _Verdict("rocm", f"{adapter} ({architecture}), ROCm 7.2", environment)


def _intel(adapter: Adapter, drivers: Drivers) -> _Verdict:
    arc = adapter.device in _ARC_BUILT_IN or any(first <= adapter.device <= last for first, last in _ARC)
    if not arc:
        return _Verdict("", f"{adapter} is integrated and not an Arc, which is what PyTorch's XPU build supports")
    if not drivers.intel:
        reason = f"{adapter} (Arc) is there but its driver is not; install it and run this again"
        return _Verdict("", reason, fixable=True)
    return _Verdict("xpu", f"{adapter} (Arc), XPU")


def detect() -> TorchChoice:
    """The build for this machine.

    Raises:
        SetupError: torch has no build for this kind of machine.
    """
    system = platform.system()
    if system == "Windows":
        adapters, drivers = _windows()
    elif system == "Linux":
        adapters, drivers = linux_adapters(Path("/")), linux_drivers(Path("/"))
    else:
        adapters, drivers = [], Drivers()
    return choose(system, platform.machine(), adapters, drivers)


def linux_adapters(root: Path) -> list[Adapter]:
    """Display controllers (PCI class 03) and accelerators (class 12) below `root`, which is `/` outside of tests."""
    found = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        try:
            numbers = [int((device / name).read_text(), 16) for name in ("class", "vendor", "device")]
        except (OSError, ValueError):
            continue  # a device that went away meanwhile
        if numbers[0] >> 16 in (0x03, 0x12):
            found.append(Adapter(numbers[1], numbers[2]))
    # WSL shows a GPU of its own; NVIDIA's library in this folder says what is behind it
    if not any(adapter.vendor == NVIDIA for adapter in found) and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        found.append(Adapter(NVIDIA, 0xFFFF))
    return found


def linux_drivers(root: Path, found: Callable[[str], bool] = loads) -> Drivers:
    """Which adapters can be reached; `found` tells whether a shared library loads."""
    version = None
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
        if match := re.search(r"\s(\d{3,})\.\d+", text):
            version = int(match[1])
    except OSError:
        pass
    architectures = {}
    for node in (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        try:
            values = dict(line.split() for line in node.read_text().splitlines() if len(line.split()) == 2)
            target, device = int(values["gfx_target_version"]), int(values["device_id"])
        except (OSError, KeyError, ValueError):
            continue
        if target:  # decimal: 110001 is 11.0.1, written gfx1101; the last two parts are hexadecimal in the name
            architectures[device] = f"gfx{target // 10000}{target // 100 % 100:x}{target % 100:x}"
    return Drivers(
        nvidia=(root / "usr/lib/wsl/lib/libcuda.so.1").exists() or found("libcuda.so.1"),
        nvidia_version=version,
        amd=(root / "dev/kfd").exists(),
        amd_architectures=architectures,
        intel=any((root / "dev/dri").glob("renderD*")),
    )


def _windows() -> tuple[list[Adapter], Drivers]:
    """Adapters and drivers from the registry's display class, which every driver fills in."""
    adapters: list[Adapter] = []
    version = None
    if sys.platform == "win32":  # also tells the type checker that winreg exists here
        import winreg

        display = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
        for number in range(16):
            try:
                with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{display}\{number:04}") as key:
                    identity = str(winreg.QueryValueEx(key, "MatchingDeviceId")[0])
                    driver = str(winreg.QueryValueEx(key, "DriverVersion")[0])
            except OSError:
                continue
            if adapter := parse_windows_identity(identity):
                adapters.append(adapter)
                if adapter.vendor == NVIDIA:
                    version = parse_windows_nvidia_version(driver)
    # an adapter in this class has its driver, or it would be Microsoft's basic one
    return adapters, Drivers(nvidia=True, nvidia_version=version, amd=True, intel=True)


def parse_windows_identity(identity: str) -> Adapter | None:
    r"""An adapter from a name such as `PCI\VEN_10DE&DEV_2684&SUBSYS_...`, None where it is not on PCI."""
    match = re.match(r"pci\\ven_([0-9a-f]{4})&dev_([0-9a-f]{4})", identity, re.IGNORECASE)
    return Adapter(int(match[1], 16), int(match[2], 16)) if match else None


def parse_windows_nvidia_version(version: str) -> int | None:
    """NVIDIA's major driver version from Windows' form: the last five digits of 32.0.15.6094 are 560.94."""
    digits = "".join(version.split(".")[-2:])[-5:]
    return int(digits[:3]) if len(digits) == 5 and digits.isdigit() else None


def selected(option: str | None, remembered: str | None) -> tuple[TorchChoice, str | None]:
    """The choice to use and the override to remember: the option, `RESIDENCY_TORCH`, an earlier override, or detection.

    Raises:
        SetupError: the name is none of ours, or torch has no build for this machine.
    """
    wanted = option or os.environ.get("RESIDENCY_TORCH") or remembered
    if not wanted or wanted == "auto":
        return detect(), None
    if wanted not in _DISK:
        raise SetupError(f"{wanted!r} is no torch build; choose one of auto, {', '.join(_DISK)}.")
    return make_choice(wanted, platform.system(), "chosen by hand"), wanted
