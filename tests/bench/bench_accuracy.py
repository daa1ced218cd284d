"""How far runs are from their plans, on an emulated card that the planner was told nothing of but what it calibrated.

    python -m tests.bench.bench_accuracy [--rounds 6]

The card is slower than this processor, so that real arithmetic hides in modelled time, and its rates, link, jitter and
allocator are its own. Each round makes a picture of another text with the starter: the plan is made before, the run
measured. The first run's plan knows calibrated rates only; later ones have learned from the runs before. Peaks are
compared with what the card's allocator had given out, and with what a driver would say (context and reserved segments).
Writes tests/bench/results/accuracy.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from core.engine.libraries import prepare
from core.messages import Event, Finished, Planned, Request
from core.plans import Phase
from tests.bench.report import load_average, write
from tests.events import wait_for

MIB = 2**20
SIZES = ((128, 4, 4e9), (256, 3, 12e9), (512, 1, 30e9))  # edge in pixels, steps, operations per second


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    load = load_average()
    with tempfile.TemporaryDirectory() as home:
        os.environ["RESIDENCY_HOME"] = home
        prepare()
        rows = [_measure(edge, steps, rate, rounds, Path(home)) for edge, steps, rate in SIZES]
    write("accuracy", {"sizes": rows}, load)
    for row in rows:
        print(row)


def _measure(edge: int, steps: int, rate: float, rounds: int, home: Path) -> dict[str, object]:
    from core.engine import InProcessEngine
    from core.hardware.calibrate import load_or_measure
    from core.hardware.emulated import EmulatedAccelerator
    from core.hardware.emulated_card import EmulatedCard

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
        )
    )
    load_or_measure(card)
    engine = InProcessEngine(accelerator=card)
    engine.start()
    step, total, peak, driver = [], [], [], []
    try:
        for number in range(rounds):
            out = str(home / f"{edge}-{number}.png")
            text = f"a red house by the sea, number {number}"
            engine.submit(Request(prompt=text, seed=1, steps=steps, width=edge, height=edge, out=out))
            seen: list[Event] = []
            result = wait_for(engine, Finished, seen=seen).result
            plan = next(event.plan for event in seen if isinstance(event, Planned))
            denoise = next(phase for phase in plan.phases if phase.phase is Phase.DENOISE)
            step.append(result.seconds["denoise"] / steps / denoise.step_seconds - 1)
            total.append(result.seconds["total"] / plan.total_seconds - 1)
            peak.append(card._allocator.peak_allocated / plan.peak_bytes - 1)
            driver.append(result.peak_device_bytes / plan.peak_bytes - 1)
    finally:
        engine.close()
        card.close()
    return {
        "edge": edge,
        "steps": steps,
        "first_step_error": round(step[0], 4),
        "later_step_error_median": round(statistics.median(abs(error) for error in step[1:]), 4),
        "later_step_error_worst": round(max(abs(error) for error in step[1:]), 4),
        "later_total_error_median": round(statistics.median(abs(error) for error in total[1:]), 4),
        "peak_error_worst": round(max(abs(error) for error in peak), 4),
        "driver_over_planned_peak": round(max(driver), 4),
        "target_step_error": 0.10,
        "target_peak_error": 0.05,
    }


if __name__ == "__main__":
    main()
