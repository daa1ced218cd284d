"""How quickly formats are encoded and decoded on one thread, against ggml's encoders and diffusers' eager decoders.

    python -m tests.bench.bench_precision [--rounds 9] [--formats Q4_K Q8_0 ...]

Nanoseconds of processor time for one weight, medians over rounds; in each round ours and theirs take turns, so that
what else the machine does meets both. Encoders take 512 x 2048 Gaussian values, without and with weights of importance
(ggml, compiled for any x86-64 in the wheel that the tests use, takes a part of the rows: it keeps nothing from row to
row). Decoders make 1024 x 4096 weights in float32, bfloat16 and float16: ours into one buffer that is used again, as
the streamer has it; diffusers' kernels into new tensors of float16 (IQ4: of float32), which its linear layer then casts
to the compute dtype. `new_ns` is ours into a new tensor. `copy_ns` is what only copying the result would cost, from
numbers of the same dtype, also in turn with diffusers' kernel: a bound for any decoder that goes over its numbers once.
Writes tests/bench/results/precision.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import gguf
import torch
from diffusers.quantizers.gguf import utils

from core.precision import decode, encode
from core.precision.formats import FORMATS
from tests.bench.report import load_average, write
from tests.core.precision.ggml import quantize

PACKED = [name for name, entry in FORMATS.items() if entry.packed]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TARGETS = {"encode K": 1.0, "decode": 3.0}


def nanoseconds(work: Callable[[], object], weights: int) -> float:
    """This thread's processor time for one weight."""
    start = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - start) / weights


def in_turn(
    rounds: int, ours: Callable[[], object], own: int, theirs: Callable[[], object], other: int
) -> dict[str, float]:
    """Medians of both, for one weight, and how many times as fast ours is."""
    ours()
    theirs()
    pairs = [(nanoseconds(ours, own), nanoseconds(theirs, other)) for _ in range(rounds)]
    mine, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"ours_ns": round(mine, 3), "theirs_ns": round(reference, 3), "ratio": round(reference / mine, 2)}


def encoders(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Against ggml_quantize_chunk."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 2048, generator=generator)
    part = x[:64].contiguous()
    importance = torch.rand(2048, generator=generator) + 0.01
    return {
        mode: in_turn(
            rounds,
            lambda w=weights: encode(x, name, w),  # type: ignore[misc]
            x.numel(),
            lambda w=weights: quantize(part, name, w),  # type: ignore[misc]
            part.numel(),
        )
        for mode, weights in (("plain", None), ("importance", importance))
    }


def decoders(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Against dequantize_gguf_tensor and the cast that follows it."""
    kind = gguf.GGMLQuantizationType[name]
    if kind not in utils.dequantize_functions:
        return {}
    shape = (1024, 4096)
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    data = encode(numbers, name)
    parameter = utils.GGUFParameter(data, quant_type=kind)
    count = shape[0] * shape[1]
    found = {}
    for label, dtype in DTYPES.items():
        out = torch.empty(shape, dtype=dtype)
        work = partial(decode, data, name, shape, dtype)
        theirs = partial(_theirs, parameter, dtype)
        found[label] = in_turn(rounds, partial(work, out=out), count, theirs, count)
        found[label]["copy_ns"] = in_turn(rounds, partial(out.copy_, numbers.to(dtype)), count, theirs, count)[
            "ours_ns"
        ]
        found[label]["new_ns"] = round(statistics.median(nanoseconds(work, count) for _ in range(rounds)), 3)
    return found


def _theirs(parameter: utils.GGUFParameter, dtype: torch.dtype) -> torch.Tensor:
    return utils.dequantize_gguf_tensor(parameter).to(dtype)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--formats", nargs="*", default=PACKED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = load_average()
    encoded, decoded = {}, {}
    for name in arguments.formats:
        encoded[name] = encoders(name, arguments.rounds)
        decoded[name] = decoders(name, arguments.rounds)
        print(name, *(f"{mode} x{figures['ratio']}" for mode, figures in encoded[name].items()), end="; ")
        print(*(f"{dtype} x{figures['ratio']}" for dtype, figures in decoded[name].items()), flush=True)
    if arguments.formats != PACKED:
        return
    searched = [modes for name, modes in encoded.items() if FORMATS[name].block_elements == 256]
    measured = {
        "encode": encoded,
        "decode": decoded,
        "targets": TARGETS,
        "slowest_k_encode_ratio": min(figures["ratio"] for modes in searched for figures in modes.values()),
        "slowest_decode_ratio": min(figures["ratio"] for dtypes in decoded.values() for figures in dtypes.values()),
        "rounds": arguments.rounds,
        "threads": 1,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    write("precision", measured, load)


if __name__ == "__main__":
    main()
