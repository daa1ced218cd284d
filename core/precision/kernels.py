"""Which code decodes the blocks of a packed format: a kernel of ours or torch's own operations (eager).

Kernels are numba's on a CPU (numba_decode) and Triton's on a card (triton_blocks). Both give eager's bits, so which of
them runs changes seconds and never pixels. Triton comes with torch for NVIDIA's and AMD's cards on Linux and, like
numba, is nowhere required: where it is missing, cannot compile or gives another bit than eager for random blocks (seen
at a kernel's first use on a device), or was slower at calibration, eager decodes.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from core.precision import choice, compiled, eager
from core.precision.formats import Format

FORMATS = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")  # of Triton's kernels; numba's are there for all
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Triton's interpreter runs kernels on a CPU, thousands of times slower: for tests, which set this before any import.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_PROOF_BLOCKS = 515  # several programs and a part of one; among them some 32 scales that are denormal or not finite
_CALLS, _ROUNDS = 8, 3

_log = logging.getLogger(__name__)
_unfit: set[torch.device] = set()
_proved: dict[tuple[torch.device, str, torch.dtype], bool] = {}


def available(device: torch.device) -> bool:
    """Whether kernels may be tried on a device: what compiles them is installed, and none of them has failed there."""
    if device in _unfit:
        return False
    if _by_numba(device):
        return compiled.kernels("numba_decode") is not None
    return (device.type == "cuda" or _INTERPRETED) and _installed()


def decode_blocks(blocks: Tensor, entry: Format, out: Tensor) -> None:
    """Decode uint8 [n, block_bytes] into out [n, block_elements] by the faster code; both contiguous, on one device.

    A kernel's first use for a format and dtype on a device waits for the device, once: it is compiled and compared.
    """
    if not (uses_kernel(blocks.device, entry, out.dtype) and _launched(blocks, entry, out)):
        eager.decode_blocks(blocks, entry, out)


def uses_kernel(device: torch.device, entry: Format, dtype: torch.dtype) -> bool:
    """Whether `decode_blocks` launches a kernel there."""
    # F8 is held, but no kernel decodes it: core.precision.decode_f8
    usable = entry.packed and available(device) and entry.name not in choice.eager_on(device)
    return usable and _proof(device, entry, dtype)


def choose(blocks: Tensor, entry: Format, dtype: torch.dtype) -> None:
    """Time both ways to decode these blocks, let the faster decode this format on their device, and keep that.

    Where there is only eager, nothing is measured.
    """
    device = blocks.device
    if not (entry.packed and available(device) and _proof(device, entry, dtype)):
        return
    out = torch.empty((len(blocks), entry.block_elements), dtype=dtype, device=device)
    by_kernel = seconds(device, partial(launch, blocks, entry, out))
    by_torch = seconds(device, partial(eager.decode_blocks, blocks, entry, out))
    choice.keep(device, entry.name, eager=by_torch < by_kernel)


def launch(blocks: Tensor, entry: Format, out: Tensor) -> None:
    """Decode by the kernel, whatever was chosen. Raises what its compiler raises where it cannot."""
    if _by_numba(blocks.device):
        from core.precision import numba_decode  # only where there is numba

        numba_decode.launch(blocks, entry, out)
        return
    from core.precision import triton_blocks  # only where there is Triton

    triton_blocks.launch(blocks, entry.name, out)


def seconds(device: torch.device, decode: Callable[[], object], calls: int = _CALLS, rounds: int = _ROUNDS) -> float:
    """Seconds of one call among its like, the host's time included where it is longer: the best of a few rounds."""
    decode()
    best = float("inf")
    for _ in range(rounds):
        _wait(device)
        begin = time.perf_counter()
        for _ in range(calls):
            decode()
        _wait(device)
        best = min(best, (time.perf_counter() - begin) / calls)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _by_numba(device: torch.device) -> bool:
    return device.type == "cpu" and not _INTERPRETED


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _launched(blocks: Tensor, entry: Format, out: Tensor) -> bool:
    """Try the kernel; where it fails, the device does without from now on, and the log says why."""
    try:
        launch(blocks, entry, out)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers fail in many ways
        _unfit.add(blocks.device)
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        _log.warning("Decode kernels are not used on %s: %s: %s", blocks.device, type(error).__name__, reason)
        return False
    return True


def _proof(device: torch.device, entry: Format, dtype: torch.dtype) -> bool:
    """Whether a format's kernel gives the bits of eager for this dtype on this device; found out once."""
    key = (device, entry.name, dtype)
    if key not in _proved:
        offered = dtype in DTYPES and (_by_numba(device) or entry.name in FORMATS)
        _proved[key] = offered and _same_bits(device, entry, dtype)
    return _proved[key]


def _same_bits(device: torch.device, entry: Format, dtype: torch.dtype) -> bool:
    """Random blocks by both: the same to the sign of a zero; one NaN is as good as another."""
    random = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (_PROOF_BLOCKS, entry.block_bytes), dtype=torch.uint8, generator=random).to(device)
    found, expected = torch.zeros((2, _PROOF_BLOCKS, entry.block_elements), dtype=dtype, device=device)
    if not _launched(blocks, entry, found):
        return False
    eager.decode_blocks(blocks, entry, expected)
    bits = torch.int32 if dtype.itemsize == 4 else torch.int16
    same = (found.view(bits) == expected.view(bits)) | (found.isnan() & expected.isnan())
    if same.all():
        return True
    _log.warning("The kernel for %s in %s is not used on %s: its numbers differ", entry.name, str(dtype)[6:], device)
    return False
