"""Seconds and memory of `residency convert` on checkpoints of random numbers with the shapes of real models.

    python -m tests.bench.bench_convert [--models sd35-medium sdxl] [--scratch FOLDER]

Each conversion runs in a process of its own. `private_bytes` is the largest sum of its private pages (smaps_rollup,
sampled every 20 ms) above what it had with its imports; files' pages are not in it. Needs about 10 GB in the folder.
Writes tests/bench/results/convert.json.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path

import torch

from core.models.profile import load
from tests.bench.report import load_average, write

MODES = {
    "sd35-medium": (("--format", "Q8_0"), ("--format", "Q4_K"), ("--target-size", "2GB")),
    "sdxl": (("--format", "Q8_0"),),
}
_NETWORKS = ("transformer", "unet")
_RANDOM = 1 << 25  # numbers that are random; larger tensors repeat them

CHILD = """
import re, sys, threading, time
def private():
    text = open("/proc/self/smaps_rollup").read()
    return sum(int(found) for found in re.findall(r"Private_\\w+:\\s+(\\d+) kB", text)) * 1024
from core import cli
import core.commands.convert
before, most, done = private(), 0, False
def watch():
    global most
    while not done:
        most = max(most, private())
        time.sleep(0.02)
thread = threading.Thread(target=watch)
thread.start()
code = cli.main(sys.argv[1:])
done = True
thread.join()
print(most - before)
sys.exit(code)
"""


def checkpoint(name: str, path: Path) -> int:
    """Write a model's denoiser as random bfloat16; returns the bytes."""
    components = load(name).components
    component = next(components[network] for network in _NETWORKS if network in components)
    shapes = {tensor.name: tensor.shape for tensor in component.rest.tensors}
    for kind, count in component.order:
        stack = kind.rstrip("0123456789.")
        for _ in range(count):
            shapes |= {f"{stack}.{len(shapes)}.{tensor.name}": tensor.shape for tensor in component.kinds[kind].tensors}
    header, at = {}, 0
    for tensor, shape in shapes.items():
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * prod(shape)]}
        at += 2 * prod(shape)
    text = json.dumps(header).encode()
    values = memoryview((torch.randn(_RANDOM) * 0.03).bfloat16().view(torch.uint8).numpy())
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, at, len(values)):
            file.write(values[: at - start])
    return at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--scratch", type=Path, help="where the files are made")
    options = parser.parse_args()
    load_before = load_average()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for name in options.models:
            source, out, report = (Path(folder) / each for each in ("in.safetensors", "out.gguf", "report.json"))
            size = checkpoint(name, source)
            for mode in MODES[name]:
                words = ["convert", str(source), "-o", str(out), *mode, "--report", str(report)]
                run = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=True)
                found = json.loads(report.read_text())
                rows.append(
                    {
                        "shapes": name,
                        "source_bytes": size,
                        "mode": " ".join(mode),
                        "private_bytes": int(run.stdout.splitlines()[-1]),
                        "source_bytes_per_second": round(size / found["seconds"]),
                        **{
                            key: found[key]
                            for key in ("bytes", "seconds", "peak_rss_bytes", "baseline_rss_bytes", "types", "rel_rmse")
                        },
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    write("convert", {"conversions": rows}, load_before)


if __name__ == "__main__":
    main()
