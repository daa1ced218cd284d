"""How true an emulated card is to its numbers, and what calibration finds of them.

    python -m tests.bench.bench_emulated [--cards 8] [--passes 6]

Writes tests/bench/results/emulated.json:
- pacing: copies and kernels by the host's clock against their modelled time;
- streaming: blocks through slots on both queues, seconds a pass against max(C, S / B), by the host's clock;
- calibration: the relative errors of what is found on cards with random numbers, and how long it takes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from core.hardware.accelerator import TorchAccelerator
from core.hardware.calibrate import measure
from core.hardware.calibrate_decoders import eager
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.hardware.interface import Event, Work
from tests.bench.report import load_average, write

MB = 1_000_000


def card(**changes: object) -> EmulatedCard:
    """2 GB behind 1 GB/s."""
    numbers: dict[str, object] = {
        "name": "card",
        "title": "Card",
        "memory_bytes": 2000 * MB,
        "context_bytes": 0,
        "headroom_bytes": 0,
        "pinned_rate": 1e9,
        "pageable_rate": 3e8,
        "compute_slowdown": 0.0,
        "copy_slowdown": 0.0,
    }
    return EmulatedCard(**{**numbers, **changes})  # type: ignore[arg-type]


def pacing() -> dict[str, float]:
    """Ratios of the host's seconds to the modelled ones, medians of five: long copies, short copies, short kernels."""
    device = EmulatedAccelerator(card())
    slot, ring = device.allocate(50 * MB, "slot"), device.pinned(50 * MB).zero_()
    work = Work(seconds=1e-4)

    def ratio(modelled: float, enqueue: Callable[[], object], count: int) -> float:
        found = []
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(count):
                enqueue()
            device.synchronize()
            found.append((time.perf_counter() - begin) / (count * modelled))
        return statistics.median(found)

    def copy(size: int) -> Callable[[], None]:
        return lambda: device.copy_queue.copy(slot[:size], ring[:size])

    ratios = {
        "long_copies_ratio": ratio(device.card.copy_seconds(50 * MB, pinned=True), copy(50 * MB), 5),
        "short_copies_ratio": ratio(device.card.copy_seconds(MB, pinned=True), copy(MB), 200),
        "short_kernels_ratio": ratio(1e-4, lambda: device.compute_queue.launch(lambda: None, work), 2000),
    }
    device.close()
    return ratios


def streaming(passes: int, slots: int) -> dict[str, float]:
    """16 blocks of 10 MB that compute as long as they are copied, through slots, prefetch running across passes."""
    blocks, size, seconds = 16, 10 * MB, 0.01
    device = EmulatedAccelerator(card())
    copies, compute = device.copy_queue, device.compute_queue
    buffers = [device.allocate(size, "slot") for _ in range(slots)]
    slabs = [device.pinned(size).fill_(block) for block in range(blocks)]
    copied, freed = [device.event() for _ in buffers], [device.event() for _ in buffers]
    wrong: list[int] = []

    def fetch(turn: int) -> None:
        at = turn % slots
        if freed[at].recorded:
            copies.wait(freed[at])
        copies.copy(buffers[at], slabs[turn % blocks])
        copies.record(copied[at])

    def check(turn: int) -> None:
        if int(buffers[turn % slots][-1]) != turn % blocks:
            wrong.append(turn)

    for turn in range(slots):
        fetch(turn)
    marks: list[Event] = []
    begin = 0.0
    for turn in range(blocks * passes):
        if turn == blocks:
            marks[-1].synchronize()  # the first pass is not in the balance of the others
            begin = time.perf_counter()
        compute.wait(copied[turn % slots])
        compute.launch(lambda turn=turn: check(turn), Work(seconds=seconds))
        marks.append(compute.record(freed[turn % slots]))
        fetch(turn + slots)
        if turn % blocks == blocks - 1:
            marks.append(compute.record())
    marks[-1].synchronize()
    per_pass = (time.perf_counter() - begin) / (passes - 1)
    device.synchronize()
    device.close()
    assert not wrong, f"blocks {wrong} were computed with other bytes than theirs"
    bound = max(blocks * seconds, blocks * size / 1e9)
    return {"pass_seconds": per_pass, "bound_seconds": bound, "bound_ratio": per_pass / bound}


def calibration(cards: int) -> dict[str, object]:
    """Errors on cards with random numbers, and the seconds for one of them and for this machine's CPU."""
    decoders = eager()  # imports diffusers, which is not what is timed
    errors: dict[str, list[float]] = {"pinned": [], "pageable": [], "matmul": [], "bandwidth": [], "contention": []}
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(cards):
            chance = random.Random(seed)
            rate = chance.uniform(0.5e9, 3e9)
            true = card(
                pinned_rate=rate,
                pageable_rate=rate * chance.uniform(0.2, 0.5),
                memory_bandwidth=chance.uniform(50e9, 900e9),
                matmul_rate={"F32": chance.uniform(5e12, 40e12)},
                compute_slowdown=chance.uniform(0.02, 0.5),
                copy_slowdown=chance.uniform(0.0, 0.2),
                jitter=0.02,
                seed=seed,
            )
            device = EmulatedAccelerator(true)
            begin = time.perf_counter()
            found = measure(device, folder=Path(folder), decoders=decoders)
            seconds.append(time.perf_counter() - begin)
            device.close()
            errors["pinned"].append(found.pinned_rate / true.pinned_rate - 1)
            errors["pageable"].append(found.pageable_rate / true.pageable_rate - 1)
            errors["matmul"].append(found.matmul_rate["F32"] / true.matmul_rate["F32"] - 1)
            errors["bandwidth"].append(found.memory_bandwidth / true.memory_bandwidth - 1)
            errors["contention"].append(found.contention - true.compute_slowdown)
        begin = time.perf_counter()
        measure(TorchAccelerator("cpu", "CPU"), folder=Path(folder), decoders=decoders)
        cpu = time.perf_counter() - begin
    return {
        "largest_errors": {name: max(map(abs, values)) for name, values in errors.items()},
        "errors": errors,
        "emulated_seconds": statistics.median(seconds),
        "cpu_seconds": cpu,
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", type=int, default=8)
    parser.add_argument("--passes", type=int, default=6)
    arguments = parser.parse_args()
    load = load_average()
    torch.zeros(1)
    result: dict[str, object] = {**pacing()}
    for slots in (2, 3):
        result |= {
            f"{name.rsplit('_', 1)[0]}_{slots}_slots_{name.rsplit('_', 1)[1]}": value
            for name, value in streaming(arguments.passes, slots).items()
        }
    calibrated = calibration(arguments.cards)
    print(calibrated["largest_errors"])
    write("emulated", {**result, **{f"calibration_{name}": value for name, value in calibrated.items()}}, load)


if __name__ == "__main__":
    main()
