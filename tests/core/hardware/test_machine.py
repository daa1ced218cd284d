"""The machine is described without torch, from files that may lie or be missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.hardware import machine
from core.hardware.accelerator import choose
from core.hardware.pci import Gpu
from core.messages import UserError
from tests.core.hardware import trees


def test_this_machine_has_cores_and_memory() -> None:
    found = machine.detect()
    assert found.cores >= 1
    assert found.memory_bytes >= found.free_memory_bytes > 0


def test_a_machine_from_its_files(tmp_path: Path) -> None:
    trees.radeon_desktop(tmp_path)
    found = machine.detect(tmp_path)
    assert (found.processor, found.memory_bytes) == ("A Processor", 32_000_000 * 1024)
    assert [gpu.pci_id for gpu in found.gpus] == ["1002:747e"]


def test_an_empty_tree_is_no_error(tmp_path: Path) -> None:
    found = machine.detect(tmp_path)
    assert found.gpus == ()
    assert found.processor
    assert found.memory_bytes > 0  # the system's own answer


def test_nvidias_driver_knows_its_cards_better() -> None:
    listed = Gpu("NVIDIA", 0x2504, vendor_id=0x10DE, revision=0xA1, address="0000:01:00.0")
    other = Gpu("Intel", 0x9A49, vendor_id=0x8086, address="0000:00:02.0")
    told = Gpu("NVIDIA", 0x2504, 12 * 2**30, vendor_id=0x10DE, address="0000:01:00.0", name="NVIDIA GeForce RTX 3060")
    merged = machine.told_by_driver([other, listed], [told])
    assert [gpu.vendor for gpu in merged] == ["Intel", "NVIDIA"]
    assert (merged[1].name, merged[1].vram_bytes, merged[1].revision) == (told.name, told.vram_bytes, 0xA1)
    assert machine.told_by_driver([other], [told]) == [other, told]  # on no bus, as under WSL
    unplaced = Gpu("NVIDIA", 0x2504, vendor_id=0x10DE)  # Windows' registry has no addresses
    assert len(machine.told_by_driver([unplaced, unplaced], [told, told])) == 2


def test_torch_stays_out() -> None:
    modules = "machine, match, profile, link, assume, pci, nvml, registry, sysctl, cgroup, disk"
    code = f"import sys; from core.hardware import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_accelerator_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="no accelerator called gpu"):
        choose("gpu")
    assert choose("cpu").compute_dtype.itemsize == 4
