"""The machine is described without torch, from files that may lie or be missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.hardware import machine
from core.hardware.accelerator import choose
from core.messages import UserError


def test_this_machine_has_cores_and_memory() -> None:
    found = machine.detect()
    assert found.cores >= 1
    assert found.memory_bytes >= found.free_memory_bytes > 0


def test_adapters_are_found_by_their_pci_class(tmp_path: Path) -> None:
    for name, files in {
        "0000:03:00.0": {
            "class": "0x030000",
            "vendor": "0x1002",
            "device": "0x747e",
            "mem_info_vram_total": "17163091968",
        },
        "0000:00:1f.0": {"class": "0x060100", "vendor": "0x8086", "device": "0x7a04"},
        "0000:04:00.0": {"class": "nonsense", "vendor": "0x10de"},
    }.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(f"{content}\n")
    assert machine._gpus(tmp_path) == [machine.Gpu("AMD", 0x747E, 17163091968)]
    assert machine._gpus(tmp_path / "missing") == []


def test_an_accelerator_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="no accelerator called gpu"):
        choose("gpu")
    assert choose("cpu").compute_dtype.itemsize == 4
