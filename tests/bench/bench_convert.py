"""Seconds and memory of `residency convert` on checkpoints of random numbers with the shapes of real models.

    python -m tests.bench.bench_convert [--models sd35-medium] [--scratch FOLDER]

Each conversion runs in a process of its own. `private_bytes` is the largest sum of its private pages (smaps_rollup,
sampled every 20 ms) above what it had with its imports; files' pages are not in it. Needs about 10 GB in the folder.
Run again with the same folder it goes on where it was stopped; at the end its files are gone.

`rmse_sizes` are the bytes of a whole model at a threshold, computed: shapes and roles of every tensor from its shipped
profile, the formats that the command chooses for them by the errors of Gaussian numbers, and every tensor rounded up to
where the next begins. Writes tests/bench/results/convert.json.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch

from core.conversion.choice import Candidate, Input, candidates, within, within_rungs
from core.conversion.measure import error
from core.conversion.source import SourceTensor
from core.models import roles
from core.models.profile import ComponentProfile, load
from core.models.stored import Range, Stored
from core.residency.slabs import aligned
from tests.bench.report import load_average, write

RUNS = (
    ("sd35-medium", ("--format", "Q8_0")),
    ("sdxl", ("--format", "Q8_0")),
    ("sd35-medium", ("--target-size", "2GB")),
    ("sd35-medium", ("--format", "Q4_K")),
)
THRESHOLDS = (0.01, 0.03, 0.06)
LIMIT = 256 << 20  # bytes of private memory that a conversion may take
_NETWORKS = ("transformer", "unet")
_RANDOM = 1 << 25  # numbers that are random; larger tensors repeat them
_SAMPLE = 1 << 18  # numbers by which a format's error is measured

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


def tensors(component: ComponentProfile) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of a network, blocks numbered as they run."""
    yield from ((tensor.name, tensor.shape) for tensor in component.rest.tensors)
    number = 0
    for kind, count in component.order:
        stack = kind.rstrip("0123456789.")
        for _ in range(count):
            yield from ((f"{stack}.{number}.{tensor.name}", tensor.shape) for tensor in component.kinds[kind].tensors)
            number += 1


def checkpoint(name: str, path: Path) -> int:
    """Write a model's denoiser as random bfloat16; returns the bytes."""
    components = load(name).components
    shapes = dict(tensors(next(components[network] for network in _NETWORKS if network in components)))
    header, at = {}, 0
    for tensor, shape in shapes.items():
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * prod(shape)]}
        at += 2 * prod(shape)
    text = json.dumps(header).encode()
    chance = torch.Generator().manual_seed(0)
    values = memoryview((torch.randn(_RANDOM, generator=chance) * 0.03).bfloat16().view(torch.uint8).numpy())
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, at, len(values)):
            file.write(values[: at - start])
    part.rename(path)
    return at


def rmse_sizes(name: str) -> dict[str, Any]:
    """Bytes of a whole model by threshold, from its shapes."""
    inputs = []
    for component, profile in load(name).components.items():
        kind = roles.kind_of(component, profile.class_name)
        for tensor, shape in tensors(profile):
            found = Stored(tensor, "BF16", shape, (Range(Path(name), 0, 2 * prod(shape)),))
            source = SourceTensor(found)
            member = ((tensor, prod(shape)),)
            inputs.append(
                Input(name=f"{component}.{tensor}", component=component, kind=kind, source=source, members=member)
            )
    listed = candidates(inputs, [])
    numbers = torch.randn(_SAMPLE, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    errors = {stored: error(numbers, stored) for stored in {kind for entry in listed for kind in _tried(entry)}}
    found: dict[str, dict[str, int]] = {}
    for threshold in THRESHOLDS:
        parts = found[f"{threshold:.0%}"] = {"total": 0}
        for entry in listed:
            size = aligned(entry.bytes_in(within(entry, threshold, errors)))
            parts[entry.component] = parts.get(entry.component, 0) + size
            parts["total"] += size
    return {"shapes": name, "source_bytes": sum(2 * prod(entry.shape) for entry in listed), "bytes": found}


def _tried(entry: Candidate) -> list[str]:
    return [stored for stored in within_rungs(entry) if stored not in ("BF16", "F16", "F32")]


def measured(name: str, source: Path, mode: tuple[str, ...]) -> dict[str, Any]:
    """One conversion in a process of its own."""
    out, report = source.with_name("out.gguf"), source.with_name("report.json")
    words = ["convert", str(source), "-o", str(out), *mode, "--report", str(report)]
    run = subprocess.run([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(report.read_text())
    out.unlink()
    private, size = int(run.stdout.splitlines()[-1]), source.stat().st_size
    kept = ("bytes", "seconds", "peak_rss_bytes", "baseline_rss_bytes", "types", "rel_rmse")
    return {
        "shapes": name,
        "source_bytes": size,
        "mode": " ".join(mode),
        "private_bytes": private,
        "within_limit": private <= LIMIT,
        "source_bytes_per_second": round(size / found["seconds"]),
        "load_average": load_average(),
        **{key: found[key] for key in kept},
    }


def _is_there(rows: list[dict[str, Any]], name: str, mode: tuple[str, ...]) -> bool:
    return any((row["shapes"], row["mode"]) == (name, " ".join(mode)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="only these")
    parser.add_argument("--scratch", type=Path, help="where the files are made")
    options = parser.parse_args()
    load_before = load_average()
    folder = (options.scratch or Path(tempfile.gettempdir())) / "bench-convert"
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "rows.json"
    rows = json.loads(notes.read_text()) if notes.is_file() else []
    sizes = rmse_sizes("sd35-large")
    for name, mode in RUNS:
        if (options.models and name not in options.models) or _is_there(rows, name, mode):
            continue
        source = folder / f"{name}.safetensors"
        if not source.is_file():
            checkpoint(name, source)
        rows.append(measured(name, source, mode))
        notes.write_text(json.dumps(rows))
        print(json.dumps(rows[-1]), flush=True)
        write("convert", {"conversions": rows, "rmse_sizes": sizes}, load_before)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


if __name__ == "__main__":
    main()
