"""How fast packed weights are decoded on a card: our Triton kernels against torch's operations, and against the floor.

    python -m tests.gpu.bench_decode [--elements 268435456] [--layer 3072] [--rounds 5] [--calls 20] [--rows 16 32 64]

For each format that has a kernel and each dtype: gigabytes of numbers per second, and the part of the floor's speed
that this is. The floor is stored bytes and numbers at the speed of a copy inside the device's memory, measured here
(facts: no decoder can do with less traffic). `layer` is one square layer, as a pass decodes it, the host's time
included; `large` is larger than any cache. `rows` is the large case in BF16 with other numbers of blocks for a program.
Every result is compared with torch's on the device and on the CPU, bit for bit, before it is timed.
Target: at least 0.7 of the floor (large, BF16). Writes tests/bench/results/decode.json.

Without a card it runs on the CPU only under Triton's interpreter (TRITON_INTERPRET=1), whose times mean nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch
import triton

from core.precision import eager, kernels, triton_blocks
from core.precision.formats import FORMATS, Format
from tests.bench.report import load_average, write

TARGET = 0.7


def copy_rate(device: torch.device, size: int, calls: int, rounds: int) -> float:
    """Bytes per second that a copy inside the device's memory reads and writes."""
    source, target = torch.zeros((2, size), dtype=torch.uint8, device=device)
    return 2 * size / kernels.seconds(device, partial(target.copy_, source), calls, rounds)


def stored(entry: Format, elements: int, device: torch.device) -> torch.Tensor:
    """Random blocks with ordinary scales: no dtype overflows, and infinities may take another time."""
    count = elements // entry.block_elements
    blocks = torch.randint(0, 256, (count, entry.block_bytes), dtype=torch.uint8, device=device)
    ordinary = torch.tensor([0.0037, 0.0051], dtype=torch.float16, device=device).view(torch.uint8)
    place = {"Q6_K": 208}.get(entry.name, 0)
    width = 4 if entry.name in ("Q5_K", "Q4_K") else 2
    blocks[:, place : place + width] = ordinary[:width]
    return blocks


def compare(entry: Format, blocks: torch.Tensor, dtype: torch.dtype) -> None:
    """Kernel, torch on the device and torch on the CPU.

    Raises:
        AssertionError: they differ.
    """
    found, expected = torch.empty((2, len(blocks), entry.block_elements), dtype=dtype, device=blocks.device)
    kernels.launch(blocks, entry, found)
    eager.decode_blocks(blocks, entry, expected)
    assert torch.equal(found, expected), f"{entry.name} in {dtype}: kernel and torch differ on {blocks.device}"
    host = torch.empty_like(expected, device="cpu")
    eager.decode_blocks(blocks.cpu(), entry, host)
    assert torch.equal(found.cpu(), host), f"{entry.name} in {dtype}: {blocks.device} and CPU differ"


def figures(
    entry: Format, blocks: torch.Tensor, dtype: torch.dtype, bandwidth: float, calls: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Of the kernel and of torch's operations, for these blocks."""
    out = torch.empty((len(blocks), entry.block_elements), dtype=dtype, device=blocks.device)
    floor = (blocks.nbytes + out.nbytes) / bandwidth
    found = {}
    for label, decode in (("kernel", kernels.launch), ("eager", eager.decode_blocks)):
        taken = kernels.seconds(blocks.device, partial(decode, blocks, entry, out), calls, rounds)
        found[label] = {
            "gb_per_second": round(out.nbytes / taken / 1e9, 6),
            "of_floor": round(floor / taken, 6),
            "microseconds": round(taken * 1e6, 2),
        }
    return found


def tiles(
    entry: Format, blocks: torch.Tensor, choices: Sequence[int], bandwidth: float, calls: int, rounds: int
) -> dict[str, float]:
    """Part of the floor by blocks for a program, in BF16."""
    out = torch.empty((len(blocks), entry.block_elements), dtype=torch.bfloat16, device=blocks.device)
    floor, usual, found = (blocks.nbytes + out.nbytes) / bandwidth, triton_blocks.ROWS[entry.name], {}
    for rows in choices:
        triton_blocks.ROWS[entry.name] = rows
        taken = kernels.seconds(blocks.device, partial(kernels.launch, blocks, entry, out), calls, rounds)
        found[str(rows)] = round(floor / taken, 6)
    triton_blocks.ROWS[entry.name] = usual
    return found


def describe(device: torch.device) -> dict[str, object]:
    """What was measured on."""
    if device.type != "cuda":
        return {"device": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "device_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "architecture": getattr(properties, "gcnArchName", f"sm_{properties.major}{properties.minor}"),
        "runtime": torch.version.hip or torch.version.cuda,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=2**28)
    parser.add_argument("--layer", type=int, default=3072)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rows", type=int, nargs="*", default=[16, 32, 64, 128, 256])
    given = parser.parse_args(arguments)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    if not kernels.available(device):
        parser.exit(2, "There is no card with Triton here; TRITON_INTERPRET=1 runs the kernels on the CPU.\n")
    load, taken = load_average(), {}
    bandwidth = copy_rate(device, 2 * given.elements, given.calls, given.rounds)
    for name in kernels.FORMATS:
        entry = FORMATS[name]
        large, layer = stored(entry, given.elements, device), stored(entry, given.layer**2, device)
        taken[name] = {}
        for dtype in kernels.DTYPES:
            compare(entry, layer, dtype)
            found = figures(entry, large, dtype, bandwidth, given.calls, given.rounds)
            one = figures(entry, layer, dtype, bandwidth, given.calls, given.rounds)
            taken[name][str(dtype).removeprefix("torch.")] = {**found, "layer": one}
        taken[name]["rows"] = tiles(entry, large, given.rows, bandwidth, given.calls, given.rounds)
        print(name, taken[name]["bfloat16"], "rows", taken[name]["rows"], flush=True)
    write(
        "decode",
        {
            **describe(device),
            "triton": triton.__version__,
            "copy_gb_per_second": round(bandwidth / 1e9, 3),
            "elements": given.elements,
            "layer": given.layer,
            "formats": taken,
            "target": TARGET,
            "lowest_of_floor_ratio": min(kept["bfloat16"]["kernel"]["of_floor"] for kept in taken.values()),
        },
        load,
    )


if __name__ == "__main__":
    main()
