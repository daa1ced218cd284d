"""The first pass of a conversion where errors decide: what each format would make of each tensor, by a sample of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from core.conversion.choice import Candidate
from core.conversion.source import Reader
from core.conversion.write import Tick, computing_with_one, squares, threads
from core.precision.codec import decode, encode
from core.precision.formats import FORMATS

# Numbers of a tensor that are tried: runs of whole blocks, evenly spaced. The error of so many is within 1 % of the
# whole tensor's (a test holds it to 3 %).
_RUNS, _RUN = 16, 4096
_BLOCK = 256


def measure(
    listed: Sequence[Candidate], wanted: Mapping[str, Sequence[str]], tick: Tick
) -> dict[str, dict[str, float]]:
    """relRMSE by tensor and format.

    Args:
        wanted: the formats to try, by tensor; a tensor's own format has no error and is not tried.

    Raises:
        ModelFileError: a source is damaged or a number is not finite; names the tensor.
    """
    trying = [candidate for candidate in listed if len(wanted[candidate.name]) > 1]
    total = sum(_sampled(candidate) * len(wanted[candidate.name]) for candidate in trying) or 1
    local = threading.local()
    found: dict[str, dict[str, float]] = {candidate.name: {} for candidate in listed}
    done = 0

    def one(candidate: Candidate) -> dict[str, float]:
        if not hasattr(local, "reader"):
            local.reader = Reader()
        numbers = sample(candidate, local.reader)
        return {name: error(numbers, name) for name in wanted[candidate.name] if name != candidate.source.stored.type}

    with (
        computing_with_one(),
        ThreadPoolExecutor(threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            for candidate, errors in zip(trying, pool.map(one, trying), strict=True):
                found[candidate.name] = errors
                done += _sampled(candidate) * len(wanted[candidate.name])
                tick(done / total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return found


def sample(candidate: Candidate, reader: Reader) -> torch.Tensor:
    """Some of a tensor's numbers as float32 [blocks * 256, or all of a small one]."""
    elements = candidate.source.stored.elements
    if elements <= _RUNS * _RUN:
        return reader.numbers(candidate.source, 0, elements)
    blocks = elements // _BLOCK
    starts = [(blocks - _RUN // _BLOCK) * run // (_RUNS - 1) * _BLOCK for run in range(_RUNS)]
    return torch.cat([reader.numbers(candidate.source, start, _RUN) for start in starts])


def error(numbers: torch.Tensor, stored: str) -> float:
    """relRMSE of numbers [n] in a format; infinite where it cannot hold them."""
    entry = FORMATS[stored]
    if not numbers.numel():
        return 0.0
    try:
        packed = encode(numbers.view((-1, entry.block_elements) if entry.packed else (1, -1)), stored)
    except ValueError:
        return math.inf  # beyond a format's reach
    difference = decode(packed, stored, (numbers.numel(),)).sub_(numbers)
    size = squares(numbers)
    return math.sqrt(squares(difference) / size) if size else 0.0


def _sampled(candidate: Candidate) -> int:
    return min(candidate.source.stored.elements, _RUNS * _RUN)
