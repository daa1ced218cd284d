"""How long planning and simulating take, for every shipped model on three cards and on one with 8 GB, and what the
ledger costs a pass.

    python -m tests.bench.bench_plan [--rounds 7]

A plan is made from profiles that are already read, as window and engine do; where a model does not fit, what is timed
is finding that out, and the smallest budget that would do. With eight more prompts like it in the queue, how many of
them go together is decided, too. A simulation runs 30 steps in virtual time. The ledger's cost is that of one record.
Writes tests/bench/results/plan.json with medians in milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec

from core.hardware import profile as cards
from core.messages import LedgerRecord, UserError
from core.models import profile as models
from core.planning.job import Companion, Job, job_of
from core.planning.options import Options
from core.planning.simulate import simulate
from core.planning.solve import solve
from core.residency.ledger import Ledger
from tests.bench.report import load_average, write

CARDS = ("rx-7800-xt", "rtx-3060", "rtx-4090", "rx-7800-xt with 8 GB")
HOST_BYTES = 64 * 10**9


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    load = load_average()
    rows = [_row(name, card, rounds) for name in models.names() for card in CARDS]
    solves = sorted(row["solve_ms"] for row in rows)
    queues = sorted(row["solve_nine_queued_ms"] for row in rows if "solve_nine_queued_ms" in row)
    simulations = sorted(row["simulate_30_steps_ms"] for row in rows if "simulate_30_steps_ms" in row)
    summary = {
        "solve_ms": {"median": statistics.median(solves), "slowest": solves[-1], "target": 50},
        "solve_nine_queued_ms": {"median": statistics.median(queues), "slowest": queues[-1], "target": 50},
        "simulate_30_steps_ms": {"median": statistics.median(simulations), "slowest": simulations[-1], "target": 100},
        "slower_than_target": [f"{row['model']} on {row['gpu']}" for row in rows if row["solve_ms"] > 50],
        "ledger_microseconds_per_record": _ledger(),
        "rows": rows,
    }
    write("plan", summary, load)


def _row(name: str, card: str, rounds: int) -> dict[str, Any]:
    job = job_of(models.load(name))
    gpu, _, memory = card.partition(" with ")
    hardware = msgspec.structs.replace(cards.load(gpu), host_bytes=HOST_BYTES)
    if memory:
        hardware = msgspec.structs.replace(hardware, memory_bytes=int(memory.split()[0]) * 10**9)
    row: dict[str, Any] = {"model": name, "gpu": card}
    try:
        plan, _ = solve(job, hardware)
    except UserError:
        return row | {"fits": False, "solve_ms": _milliseconds(lambda: _refused(job, hardware), rounds)}
    alike = Companion(width=job.width, height=job.height, frames=job.frames, steps=job.steps, guidance=job.guidance)
    queued = msgspec.structs.replace(job, companions=(alike,) * 8)
    long_job = job_of(models.load(name), steps=30)
    long_plan, _ = solve(long_job, hardware)
    return row | {
        "fits": True,
        "solve_ms": _milliseconds(lambda: solve(job, hardware), rounds),
        "solve_nine_queued_ms": _milliseconds(lambda: solve(queued, hardware), rounds),
        "simulate_30_steps_ms": _milliseconds(lambda: simulate(long_plan, long_job, hardware, Options()), rounds),
        "simulated_over_planned": round(simulate(plan, job, hardware, Options()).total_seconds / plan.total_seconds, 4),
    }


def _refused(job: Job, hardware: cards.HardwareProfile) -> None:
    with contextlib.suppress(UserError):
        solve(job, hardware)


def _milliseconds(work: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - begin))
    return round(statistics.median(taken), 2)


def _ledger(count: int = 20_000) -> float:
    records: list[LedgerRecord] = []
    ledger = Ledger(records.append)
    begin = time.perf_counter()
    for number in range(count):
        ledger.change(("model", f"part {number % 8}"), "job", "model", "BF16", 1000, "needed by the phase")
    return round(1e6 * (time.perf_counter() - begin) / count, 2)


if __name__ == "__main__":
    main()
