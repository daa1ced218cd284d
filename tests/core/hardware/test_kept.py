"""What was measured on this machine is what plans outside of the engine count with."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from core.hardware import kept
from core.hardware.machine import detect
from core.hardware.profile import HardwareProfile


def keep(name: str, vendor: str, age: float, key: tuple[str, ...]) -> Path:
    profile = HardwareProfile(
        name=name,
        title=name,
        vendor=vendor,
        memory_bytes=8 * 10**9,
        memory_bandwidth=20e9,
        matmul_rate={"F32": 1e11},
        unified=vendor == "cpu",
        calibrated=True,
    )
    file = kept.folder() / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.encode(kept.Kept(key, profile)))
    os.utime(file, (age, age))
    return file


def test_the_newest_calibration_of_this_machine_is_used(home: Path) -> None:
    before = kept.this_machine()
    if before is None or before.vendor != "cpu":
        pytest.skip("this machine has a card")
    here = kept.machine_key(detect())
    keep("older", "cpu", 1000.0, ("1", *here))
    keep("newer", "cpu", 2000.0, ("1", *here, "eager"))
    keep("emulated", "emulated", 3000.0, ("1", *here))
    keep("elsewhere", "cpu", 4000.0, ("1", "another system"))
    keep("damaged", "cpu", 5000.0, ("1", *here)).write_text("{")
    found = kept.this_machine()
    assert found is not None
    assert found.name == "newer"
    assert found.calibrated


def test_without_one_the_data_sheet_is(home: Path) -> None:
    found = kept.this_machine()
    assert found is None or not found.calibrated
