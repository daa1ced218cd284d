"""What NVIDIA's library, Windows' registry and macOS tell is put into the same words."""

from __future__ import annotations

from typing import Any

import pytest

from core.hardware import nvml, registry, sysctl
from core.hardware.link import Link
from core.hardware.pci import Gpu


class Library:
    """Answers like NVML: results go through pointers, the return value is an error code."""

    def __init__(self, cards: int = 1, refuses: tuple[str, ...] = ()) -> None:
        self.cards, self.refuses, self.open = cards, refuses, 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        return lambda *arguments: 999 if name in self.refuses else getattr(self, f"_{name}")(*arguments)

    def _nvmlInit_v2(self) -> int:
        self.open += 1
        return 0

    def _nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def _nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = self.cards
        return 0

    def _nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = index + 1
        return 0

    def _nvmlDeviceGetName(self, handle: Any, name: Any, length: int) -> int:
        name.value = b"NVIDIA GeForce RTX 3060"
        return 0

    def _nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.used = 12 * 2**30, 2**30
        return 0

    def _nvmlDeviceGetPciInfo_v3(self, handle: Any, pci: Any) -> int:
        pci._obj.device_id, pci._obj.bus_id = 0x250410DE, b"00000000:0A:00.0"
        return 0

    def _nvmlDeviceGetMaxPcieLinkGeneration(self, handle: Any, value: Any) -> int:
        value._obj.value = 3
        return 0

    def _nvmlDeviceGetMaxPcieLinkWidth(self, handle: Any, value: Any) -> int:
        value._obj.value = 16
        return 0

    def _nvmlDeviceGetCurrPcieLinkGeneration(self, handle: Any, value: Any) -> int:
        value._obj.value = 1
        return 0

    def _nvmlDeviceGetCurrPcieLinkWidth(self, handle: Any, value: Any) -> int:
        return self._nvmlDeviceGetMaxPcieLinkWidth(handle, value)


def test_a_card_of_nvidia() -> None:
    library = Library()
    (card,) = nvml.cards(library)
    assert card == Gpu(
        vendor="NVIDIA",
        device_id=0x2504,
        vram_bytes=12 * 2**30,
        vram_used_bytes=2**30,
        link=Link(3, 16),
        link_now=Link(1, 16),
        vendor_id=0x10DE,
        address="0000:0a:00.0",
        name="NVIDIA GeForce RTX 3060",
    )
    assert library.open == 0  # it is closed again


@pytest.mark.parametrize(
    ("refused", "found"),
    [
        ("nvmlInit_v2", 0),
        ("nvmlDeviceGetCount_v2", 0),
        ("nvmlDeviceGetHandleByIndex_v2", 0),
        ("nvmlDeviceGetMaxPcieLinkWidth", 2),
        ("nvmlDeviceGetMemoryInfo", 2),
        ("nvmlDeviceGetPciInfo_v3", 2),
    ],
)
def test_a_driver_that_does_not_answer(refused: str, found: int) -> None:
    library = Library(2, (refused,))
    assert len(nvml.cards(library)) == found
    assert library.open == 0


def test_a_library_that_is_too_old() -> None:
    assert nvml.cards(object()) == []


def test_this_machines_own_drivers_are_no_danger() -> None:
    assert isinstance(nvml.cards(), list)
    assert isinstance(registry.adapters(), list)
    assert isinstance(sysctl.adapters(), list)


def test_the_registry_of_windows() -> None:
    values: dict[str, Any] = {
        "MatchingDeviceId": r"pci\ven_1002&dev_747e&subsys_0e531002&rev_c8",
        "DriverDesc": "AMD Radeon RX 7800 XT",
        "HardwareInformation.qwMemorySize": 17163091968,
    }
    expected = Gpu("AMD", 0x747E, 17163091968, vendor_id=0x1002, revision=0xC8, name="AMD Radeon RX 7800 XT")
    assert registry.adapter(values) == expected
    values["HardwareInformation.qwMemorySize"] = (17163091968).to_bytes(8, "little")
    assert registry.adapter(values) == expected
    values["HardwareInformation.qwMemorySize"] = "much"
    bare = registry.adapter({**values, "MatchingDeviceId": r"PCI\VEN_10DE&DEV_2504"})
    assert bare is not None
    assert (bare.vendor, bare.vram_bytes, bare.revision) == ("NVIDIA", 0, -1)
    assert registry.adapter({"MatchingDeviceId": r"ROOT\BasicDisplay"}) is None
    assert registry.adapter({}) is None


def test_the_graphics_of_an_apple_chip() -> None:
    gpu = sysctl.chip_graphics("Apple M2 Max", 32 * 2**30)
    assert (gpu.vendor, gpu.name, gpu.vram_bytes) == ("Apple", "Apple M2 Max", 32 * 2**30)
