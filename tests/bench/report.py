"""Result files of benchmarks: what was measured, on which machine, under which load."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from core.hardware.machine import detect

RESULTS = Path(__file__).parent / "results"


def write(name: str, measured: Mapping[str, object]) -> None:
    """Write results/<name>.json and print the figures that matter: those whose keys end in seconds or ratio."""
    result = {
        **measured,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "machine": msgspec.to_builtins(detect()),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    shown = {key: value for key, value in measured.items() if key.endswith(("seconds", "ratio"))}
    print(json.dumps({key: value for key, value in shown.items() if not isinstance(value, (list, dict))}))
