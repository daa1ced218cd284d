"""Result files of benchmarks: what was measured, on which machine, under which load."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from core.hardware.machine import detect

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("PySide6-Essentials", "torch", "diffusers", "transformers")


def load_average() -> float | None:
    """What the machine is busy with by itself; to be read before a measurement, which adds to it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def write(name: str, measured: Mapping[str, object], load_before: float | None) -> None:
    """Write results/<name>.json and print the figures that matter: those whose keys end in seconds or ratio."""
    result = {
        **measured,
        "load_average_before": load_before,
        "python": platform.python_version(),
        "libraries": {library: version(library) for library in _LIBRARIES},
        "machine": msgspec.to_builtins(detect()),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    shown = {key: value for key, value in measured.items() if key.endswith(("seconds", "ratio"))}
    print(json.dumps({key: value for key, value in shown.items() if not isinstance(value, (list, dict))}))
