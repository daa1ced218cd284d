"""How near the streamer comes to what no streamer can beat, and how little host memory it needs.

    python -m tests.bench.bench_streaming [--passes 6] [--gigabytes 4]

Writes tests/bench/results/streaming.json:
- cases: seconds of a pass on an emulated card against max(C, S/B) and against the simulated optimum for the same slots,
  over blocks of one and of several sizes, links, kernels and resident blocks;
- falling: seconds of a pass as more and more blocks are resident;
- memory: a network of so many gigabytes on disk, streamed in a process of its own; its private memory at most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from core.engine.libraries import prepare
from tests.bench.report import load_average, write

_MEMORY_PROGRAM = """
import json, sys, threading, time
from pathlib import Path
import torch
from torch import nn
from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard
from core.residency.network import Network
from core.residency.slabs import divide
from core.residency.staging import Ring
from core.residency.store import FileTensor, HostStore, OpenFile

def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))

path, gigabytes = Path(sys.argv[1]), float(sys.argv[2])
width = 4096
count = round(gigabytes * 1e9 / (2 * width * width * 2))
with path.open("wb") as file:
    for number in range(2 * count):
        weights = torch.full((width, width), 1e-4 * (number + 1), dtype=torch.bfloat16)
        file.write(weights.view(torch.uint8).numpy().data)
del weights

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
    def forward(self, x):
        return self.down(self.up(x)) * 1e-3

with torch.device("meta"):
    module = nn.Module()
    module.layers = nn.ModuleList(Block().to(torch.bfloat16) for _ in range(count))
division = divide(module)
opened = OpenFile(path)
names = [f"layers.{i}.{part}.weight" for i in range(count) for part in ("up", "down")]
size = width * width * 2
store = HostStore({name: FileTensor(opened, number * size, torch.bfloat16) for number, name in enumerate(names)})
slab = division.blocks[0][1].size
card = EmulatedAccelerator(EmulatedCard(name="card", title="Card", memory_bytes=2 * slab + (64 << 20), context_bytes=0,
    headroom_bytes=0, pinned_rate=20e9, pageable_rate=7e9))
network = Network("network", module, division, store, card)
network.place((), 2)
before, peak, done = private(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.02):
        peak = max(peak, private())

thread = threading.Thread(target=watch)
thread.start()
x = torch.ones(1, width, dtype=torch.bfloat16)
with torch.no_grad(), network.running(Ring(card, slab), passes=2):
    for _ in range(2):
        y = x
        for layer in module.layers:
            y = layer(y)
done.set()
thread.join()
network.close()
print(json.dumps({"file_bytes": path.stat().st_size, "slab_bytes": slab, "emulated_device_bytes": 2 * slab,
    "private_bytes_before": before, "private_bytes_peak": peak}))
"""


def cases(passes: int) -> list[dict[str, object]]:
    """Each case five times; the median counts."""
    from core.residency.trial import Trial, time_streaming

    shapes = {
        "transfer-bound": {"compute_seconds": 0.004},
        "compute-bound": {"compute_seconds": 0.020},
        "balanced": {"compute_seconds": 0.010},
        "balanced, mixed sizes": {"compute_seconds": 0.010, "mixed": True},
        "balanced, mixed sizes, a third resident": {"compute_seconds": 0.007, "mixed": True, "resident": 8},
        "transfer-bound, half resident": {"compute_seconds": 0.002, "resident": 12},
        "fast link, small blocks": {"link": 25e9, "block_bytes": 5_000_000, "compute_seconds": 0.0001},
        "fast link, FLUX-like blocks": {"link": 25e9, "block_bytes": 200_000_000, "compute_seconds": 0.004},
        "all but one resident": {"compute_seconds": 0.004, "resident": 23},
    }
    result = []
    for name, shape in shapes.items():
        numbers = {"blocks": 24, "block_bytes": 20_000_000, "link": 2e9, "passes": passes, **shape}
        timings = [time_streaming(msgspec.convert(numbers, Trial)) for _ in range(5)]
        middle = sorted(timings, key=lambda timing: timing.ratio)[len(timings) // 2]
        told = {key: value for key, value in msgspec.to_builtins(middle).items() if key != "block_bytes"}
        result.append({"case": name, **numbers, **told, "worst_ratio": max(timing.ratio for timing in timings)})
        print(f"{name:45} {middle.ratio:.3f} of the bound, {middle.optimum_ratio:.3f} of the optimum", file=sys.stderr)
    return result


def falling(passes: int) -> list[dict[str, float]]:
    """Seconds of a pass by resident blocks."""
    from core.residency.trial import Trial, time_streaming

    result = []
    for resident in range(0, 25, 4):
        trial = Trial(
            blocks=24,
            block_bytes=20_000_000,
            mixed=True,
            link=2e9,
            compute_seconds=0.004,
            resident=resident,
            passes=passes,
        )
        seconds = statistics.median(time_streaming(trial).seconds_per_pass for _ in range(3))
        result.append({"resident_blocks": resident, "seconds_per_pass": seconds})
    return result


def memory(gigabytes: float) -> dict[str, int]:
    """Private memory of a process that streams a network from a file."""
    with tempfile.TemporaryDirectory(prefix="residency-bench-") as folder:
        ended = subprocess.run(
            [sys.executable, "-c", _MEMORY_PROGRAM, str(Path(folder) / "weights.bin"), str(gigabytes)],
            capture_output=True,
            text=True,
            check=True,
        )
    return dict(json.loads(ended.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    options = parser.parse_args()
    prepare()
    load = load_average()
    measured = cases(options.passes)
    ratios = [float(str(case["ratio"])) for case in measured]
    seconds = falling(options.passes)
    write(
        "streaming",
        {
            "cases": measured,
            "falling": seconds,
            "memory": memory(options.gigabytes),
            "median_ratio": statistics.median(ratios),
            "worst_ratio": max(ratios),
        },
        load,
    )


if __name__ == "__main__":
    main()
