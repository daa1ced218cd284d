"""How far runs are from their plans: the very first one, which knows rates only, and later ones, which have learned.

    python -m tests.bench.bench_accuracy [--firsts 5] [--rounds 5] [--processor 9]

On emulated cards that the planner was told nothing of but what it calibrated. They are slower than this processor, so
that real arithmetic hides in modelled time, and their rates, link, jitter and allocator are their own. Each first run
has a home and a card that nobody used before; on one of them further pictures of other texts follow. Peaks are compared
with what an allocator takes from the driver: its segments, without the driver's context.

On the processor, the first picture of a fresh home as `residency generate` makes it, in a process of its own, without a
warm-up. Nobody counts activations there, so only seconds are compared.
Writes tests/bench/results/accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from core.engine.libraries import prepare
from core.messages import Event, Finished, Planned, Request
from core.plans import Phase, Plan, computing_seconds
from tests.bench.report import load_average, write
from tests.events import wait_for

ROOT = Path(__file__).parents[2]
MIB = 2**20
SIZES = ((128, 4, 4e9), (256, 3, 8e9), (512, 2, 12e9))  # edge in pixels, steps, operations per second
TARGETS = {"step": 0.10, "peak": 0.05}


class Errors(NamedTuple):
    """Of one run: measured over planned, minus one."""

    step: float
    encode: float | None  # None where the text's encoding was known
    decode: float
    total: float
    peak: float


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--firsts", type=int, default=5, help="first runs of each size")
    parser.add_argument("--rounds", type=int, default=5, help="runs after one of them")
    parser.add_argument("--processor", type=int, default=9, help="first runs on the processor")
    given = parser.parse_args()
    load = load_average()
    processor = [_on_the_processor() for _ in range(given.processor)]
    prepare()
    rows = [_on_cards(size, given.firsts, given.rounds) for size in SIZES]
    firsts = [abs(row["first_step_error_median"]) for row in rows]
    result = {
        "first_step_error_median": round(statistics.median(firsts), 4),
        "driver_peak_error_worst": max(row["driver_peak_error_worst"] for row in rows),
        "targets": TARGETS,
        "sizes": rows,
        "processor": _processor(processor),
    }
    write("accuracy", result, load)
    for key, value in result.items():
        print(key, value)


# -- emulated cards -------------------------------------------------------------------------------------------------


def _on_cards(size: tuple[int, int, float], firsts: int, rounds: int) -> dict[str, float]:
    first: list[Errors] = []
    later: list[Errors] = []
    for number in range(firsts):
        with tempfile.TemporaryDirectory() as home:
            os.environ["RESIDENCY_HOME"] = home
            errors = _runs(size, number, 1 + (rounds if number == 0 else 0), Path(home))
        first.append(errors[0])
        later += errors[1:]
    edge, steps, rate = size
    peaks = [error.peak for error in (*first, *later)]
    return {
        "edge": edge,
        "steps": steps,
        "operations_per_second": rate,
        "first_step_error_median": _median(error.step for error in first),
        "first_step_error_worst": _worst(error.step for error in first),
        "first_encode_error_median": _median(error.encode for error in first if error.encode is not None),
        "first_decode_error_median": _median(error.decode for error in first),
        "first_total_error_median": _median(error.total for error in first),
        "later_step_error_median": _median(error.step for error in later),
        "later_step_error_worst": _worst(error.step for error in later),
        "later_total_error_median": _median(error.total for error in later),
        "driver_peak_error_median": _median(peaks),
        "driver_peak_error_worst": _worst(peaks),
    }


def _runs(size: tuple[int, int, float], number: int, count: int, home: Path) -> list[Errors]:
    """Pictures one after another on a card that nobody knows."""
    from core.engine import InProcessEngine
    from core.hardware.calibrate import load_or_measure
    from core.hardware.emulated import EmulatedAccelerator
    from core.hardware.emulated_card import EmulatedCard

    edge, steps, rate = size
    card = EmulatedAccelerator(
        EmulatedCard(
            name=f"slow-{edge}",
            title=f"an emulated card for {edge} pixels",
            memory_bytes=1024 * MIB,
            context_bytes=8 * MIB,
            headroom_bytes=8 * MIB,
            pinned_rate=0.4e9,
            pageable_rate=0.2e9,
            matmul_rate={"F32": rate},
            memory_bandwidth=20e9,
            jitter=0.02,
            seed=number,
        )
    )
    load_or_measure(card)
    engine = InProcessEngine(accelerator=card)
    engine.start()
    errors = []
    try:
        for picture in range(count):
            text = f"a red house by the sea, number {picture}"
            out = str(home / f"{picture}.png")
            engine.submit(Request(prompt=text, seed=1, steps=steps, width=edge, height=edge, out=out))
            seen: list[Event] = []
            result = wait_for(engine, Finished, seen=seen).result
            plan = next(event.plan for event in seen if isinstance(event, Planned))
            errors.append(_errors(result.seconds, result.peak_device_bytes, plan))
    finally:
        engine.close()
        card.close()
    return errors


def _errors(seconds: dict[str, float], driver_bytes: int, plan: Plan) -> Errors:
    planned = {phase.phase: computing_seconds(phase) for phase in plan.phases if not phase.skipped}
    steps = next(phase.steps for phase in plan.phases if phase.phase is Phase.DENOISE)
    encode = seconds["encode"] / planned[Phase.ENCODE] - 1 if Phase.ENCODE in planned else None
    return Errors(
        step=seconds["denoise"] / steps / planned[Phase.DENOISE] - 1,
        encode=encode,
        decode=seconds["decode"] / planned[Phase.DECODE] - 1,
        total=seconds["total"] / plan.total_seconds - 1,
        peak=driver_bytes / plan.peak_bytes - 1,
    )


# -- the processor --------------------------------------------------------------------------------------------------


class First(NamedTuple):
    """The first picture of a home: seconds of computing by phase (of one step), and of all, planned and measured."""

    planned: dict[str, float]
    measured: dict[str, float]
    planned_total: float
    measured_total: float


def _on_the_processor() -> First:
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "core.cli", "generate", "a red house by the sea", "--seed", "1"]
        command += ["--accelerator", "cpu", "--out", str(Path(home) / "first.png"), "--json"]
        environment = {**os.environ, "RESIDENCY_HOME": home}
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        file = next(Path(home).rglob("runs.jsonl"))
        run = json.loads(file.read_text().splitlines()[0])
    return First(run["planned"], run["measured"], run["planned_total"], run["measured_total"])


def _processor(runs: Sequence[First]) -> dict[str, object]:
    result: dict[str, object] = {"runs": len(runs)}
    for label in runs[0].planned:
        errors = [run.measured[label] / run.planned[label] - 1 for run in runs]
        name = "step" if label == "denoise" else label
        result[f"first_{name}_error_median"] = _median(errors)
        result[f"first_{name}_errors"] = sorted(round(error, 3) for error in errors)
        result[f"planned_{name}_milliseconds"] = [round(1000 * run.planned[label], 1) for run in runs]
        result[f"measured_{name}_milliseconds"] = [round(1000 * run.measured[label], 1) for run in runs]
    result["first_total_error_median"] = _median(run.measured_total / run.planned_total - 1 for run in runs)
    return result


def _median(errors: Iterable[float]) -> float:
    values = list(errors)
    return round(statistics.median(values), 4) if values else 0.0


def _worst(errors: Iterable[float]) -> float:
    return round(max((abs(error) for error in errors), default=0.0), 4)


if __name__ == "__main__":
    main()
