"""Which build of torch is chosen, from made-up PCI trees and drivers."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch_choice
from system_packages import SetupError
from torch_choice import AMD, INTEL, NVIDIA, Adapter, Drivers, choose, linux_adapters, linux_drivers

ROOT = Path(__file__).resolve().parents[2]
ALL_DRIVERS = Drivers(nvidia=True, nvidia_version=580, amd=True, intel=True)

RX_7800_XT = Adapter(AMD, 0x747E)
RX_6700_XT = Adapter(AMD, 0x73DF)
RX_580 = Adapter(AMD, 0x67DF)
RAPHAEL = Adapter(AMD, 0x164E)  # integrated
RTX_4090 = Adapter(NVIDIA, 0x2684)
GTX_1080 = Adapter(NVIDIA, 0x1B80)
GTX_680 = Adapter(NVIDIA, 0x1180)
ARC_A770 = Adapter(INTEL, 0x56A0)
UHD_630 = Adapter(INTEL, 0x3E92)


def linux(*adapters: Adapter, drivers: Drivers = ALL_DRIVERS) -> torch_choice.TorchChoice:
    return choose("Linux", "x86_64", list(adapters), drivers)


@pytest.mark.parametrize(
    ("adapters", "build"),
    [
        ([], "cpu"),
        ([RX_7800_XT], "rocm"),
        ([RX_6700_XT], "rocm"),
        ([RX_580], "cpu"),
        ([RAPHAEL], "cpu"),
        ([RAPHAEL, RX_7800_XT], "rocm"),
        ([RTX_4090], "cuda"),
        ([RAPHAEL, RTX_4090], "cuda"),
        ([RTX_4090, RX_7800_XT], "cuda"),
        ([GTX_1080], "cuda126"),
        ([GTX_680], "cpu"),
        ([GTX_680, RX_7800_XT], "rocm"),
        ([UHD_630], "cpu"),
        ([UHD_630, RTX_4090], "cuda"),
        ([ARC_A770], "xpu"),
        ([UHD_630, ARC_A770], "xpu"),
        ([Adapter(0x1A03, 0x2000)], "cpu"),
    ],
)
def test_build_for_adapters(adapters: list[Adapter], build: str) -> None:
    assert linux(*adapters).build == build


def test_each_build_has_its_index_and_enough_disk() -> None:
    assert linux().index == "https://download.pytorch.org/whl/cpu"
    assert linux(RX_7800_XT).index == "https://download.pytorch.org/whl/rocm7.2"
    assert linux(ARC_A770).index == "https://download.pytorch.org/whl/xpu"
    assert linux(GTX_1080).index == "https://download.pytorch.org/whl/cu126"
    assert linux(RTX_4090).index is None
    assert linux().disk_bytes < 5e9
    assert linux(RX_7800_XT).disk_bytes >= 12e9


def test_reason_names_what_is_wrong_with_an_old_card() -> None:
    choice = linux(RX_580)
    assert "1002:67df" in choice.reason
    assert "RDNA" in choice.reason


def test_card_without_its_driver_gets_the_cpu_build_and_says_what_to_do() -> None:
    choice = linux(UHD_630, RTX_4090, drivers=Drivers())
    assert choice.build == "cpu"
    assert "driver" in choice.reason
    assert linux(RX_7800_XT, drivers=Drivers()).build == "cpu"
    assert "/dev/kfd" in linux(RX_7800_XT, drivers=Drivers()).reason


def test_old_nvidia_driver_gets_the_older_cuda() -> None:
    assert linux(RTX_4090, drivers=Drivers(nvidia=True, nvidia_version=570)).build == "cuda126"
    assert linux(RTX_4090, drivers=Drivers(nvidia=True, nvidia_version=None)).build == "cuda"


def test_architecture_that_rocm_has_no_kernels_for_by_name_runs_as_its_sibling() -> None:
    assert linux(RX_6700_XT).environment == {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}
    assert linux(RX_7800_XT).environment == {}


def test_other_systems() -> None:
    assert choose("Windows", "AMD64", [RTX_4090], ALL_DRIVERS).index == "https://download.pytorch.org/whl/cu130"
    assert choose("Windows", "AMD64", [RX_7800_XT], ALL_DRIVERS).build == "cpu"
    assert choose("Windows", "AMD64", [ARC_A770], ALL_DRIVERS).build == "xpu"
    assert choose("Darwin", "arm64", [], Drivers()).index is None
    assert choose("Linux", "aarch64", [RX_7800_XT], ALL_DRIVERS).build == "cpu"
    with pytest.raises(SetupError, match="Intel processors"):
        choose("Darwin", "x86_64", [], Drivers())


def pci_device(root: Path, slot: str, device_class: str, vendor: str, device: str) -> None:
    folder = root / "sys/bus/pci/devices" / slot
    folder.mkdir(parents=True)
    for name, value in (("class", device_class), ("vendor", vendor), ("device", device)):
        (folder / name).write_text(value + "\n")


def test_reads_display_devices_of_a_pci_tree(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:00:14.0", "0x0c0330", "0x8086", "0xa0ed")  # USB
    pci_device(tmp_path, "0000:03:00.0", "0x030000", "0x1002", "0x747e")
    pci_device(tmp_path, "0000:03:00.1", "0x040300", "0x1002", "0xab30")  # the card's audio
    pci_device(tmp_path, "0000:0e:00.0", "0x038000", "0x1002", "0x164e")
    pci_device(tmp_path, "0000:0f:00.0", "broken", "0x1002", "0x164e")
    assert linux_adapters(tmp_path) == [RX_7800_XT, RAPHAEL]
    assert linux_adapters(tmp_path / "nothing") == []


def test_nvidia_behind_wsl(tmp_path: Path) -> None:
    library = tmp_path / "usr/lib/wsl/lib/libcuda.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    pci_device(tmp_path, "0000:00:00.0", "0x030200", "0x1414", "0x008e")
    drivers = linux_drivers(tmp_path, found=lambda _: False)
    assert choose("Linux", "x86_64", linux_adapters(tmp_path), drivers).build == "cuda"


def test_reads_drivers(tmp_path: Path) -> None:
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 2025\nGCC version: 12.2.0\n"
    )
    for number, text in enumerate(
        ("gfx_target_version 0\ndevice_id 0\n", "gfx_target_version 90010\ndevice_id 29711\n")
    ):
        node = tmp_path / f"sys/class/kfd/kfd/topology/nodes/{number}"
        node.mkdir(parents=True)
        (node / "properties").write_text(text)
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/kfd").touch()
    (tmp_path / "dev/dri/card0").touch()
    drivers = linux_drivers(tmp_path, found=lambda name: name == "libcuda.so.1")
    assert drivers == Drivers(True, 570, True, {29711: "gfx90a"}, False)


def test_what_the_driver_says_wins_over_the_table() -> None:
    unknown = Adapter(AMD, 0x9999)
    assert linux(unknown).build == "cpu"
    assert linux(unknown, drivers=Drivers(amd=True, amd_architectures={0x9999: "gfx1201"})).build == "rocm"


def test_windows_names_and_versions() -> None:
    assert torch_choice.parse_windows_identity(r"PCI\VEN_10DE&DEV_2684&SUBSYS_889D1043") == RTX_4090
    assert torch_choice.parse_windows_identity(r"root\basicdisplay") is None
    assert torch_choice.parse_windows_nvidia_version("32.0.15.6094") == 560
    assert torch_choice.parse_windows_nvidia_version("unknown") is None


def test_override_wins_and_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESIDENCY_TORCH", raising=False)
    monkeypatch.setattr(torch_choice, "detect", lambda: linux())
    assert torch_choice.selected("rocm", None)[0].build == "rocm"
    assert torch_choice.selected(None, "xpu")[1] == "xpu"
    assert torch_choice.selected("auto", "xpu") == (linux(), None)
    monkeypatch.setenv("RESIDENCY_TORCH", "cuda")
    assert torch_choice.selected(None, "xpu")[0].build == "cuda"
    assert torch_choice.selected("cpu", None)[0].build == "cpu"
    with pytest.raises(SetupError, match="vulkan"):
        torch_choice.selected("vulkan", None)


def test_one_torch_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert torch_choice.TORCH in project["optional-dependencies"]["engine"]
    assert not any(name.startswith("torch") for name in project["dependencies"])
