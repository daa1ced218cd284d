"""How long the window takes to its first visible frame, against a bare QMainWindow in the same run.

    python -m tests.bench.bench_start [--runs 15] [--platform offscreen]

Writes tests/bench/results/start.json: medians, every run, and the machine. Each run is a new process; both figures are
counted from the start of the process to its first painted frame.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.report import load_average, write

ROOT = Path(__file__).parents[2]


def measure(environment: dict[str, str]) -> dict[str, float]:
    """One start, in a process of its own."""
    command = [sys.executable, "-m", "app.main", "--measure-start"]
    output = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return figures


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--platform", default="offscreen", help="Qt's platform plugin: offscreen, xcb, wayland, ...")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "RESIDENCY_HOME": home, "QT_QPA_PLATFORM": arguments.platform}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
        measure(environment)  # the first start writes bytecode and fills the page cache
        load = load_average()
        runs = [measure(environment) for _ in range(arguments.runs)]
    kinds = ("first_frame_seconds", "bare_window_seconds", "first_frame_cpu_seconds", "bare_window_cpu_seconds")
    result = {
        **{kind: statistics.median(run[kind] for run in runs) for kind in kinds},
        "slowest_first_frame_seconds": max(run["first_frame_seconds"] for run in runs),
        "runs": runs,
        "platform": arguments.platform,
    }
    write("start", result, load)


if __name__ == "__main__":
    main()
