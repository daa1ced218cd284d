"""Whether numba's kernels serve a CPU, and on how many threads: they give the bits of torch's operations, much sooner.

numba is brought in by the first use, and each kernel compiled by its first use on a machine. Where numba is missing, or
fails, torch goes on and the log says why, once.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

_SHARE = 1 << 18  # numbers worth a thread of their own
_MULTIPLE = 256  # threads divide blocks and columns by it, so that no two write to one line of the cache

_log = logging.getLogger(__name__)
_failed: set[str] = set()


def search(name: str, x: Tensor, *arguments: Tensor | float, columns: int | None = None) -> bool:
    """Run a kernel of numba_search; False where there is none for x's device, and nothing was done.

    Threads share the columns of x [n, B], or `columns` of something else that the kernel counts.
    """
    module = kernels("numba_search") if x.device.type == "cpu" else None
    if module is None:
        return False
    kernel = getattr(module, name)
    arrays = [part.numpy() if isinstance(part, Tensor) else part for part in (x, *arguments)]
    count = x.shape[1] if columns is None else columns
    try:
        spread(count, x.numel() // max(1, count), lambda start, stop: kernel(start, stop, *arrays))
    except Exception as error:  # compilers fail in many ways
        refuse("numba_search", error)
        return False
    return True


def kernels(name: str) -> ModuleType | None:
    """One of core.precision's modules of numba's kernels; None where there is no numba, or where it has failed."""
    return None if name in _failed else _module(name)


def refuse(name: str, error: Exception) -> None:
    """Do without a module from now on."""
    _failed.add(name)
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    _log.warning("%s is not used: %s: %s", name, type(error).__name__, reason)


def spread(count: int, size: int, work: Callable[[int, int], object]) -> None:
    """Do work(start, stop) for all of `count` parts of `size` numbers on as many threads as torch computes with."""
    threads = min(torch.get_num_threads(), count * size // _SHARE)
    if threads < 2:
        work(0, count)
        return
    step = -(-count // threads // _MULTIPLE) * _MULTIPLE
    starts = range(0, count, step)
    list(_pool().map(work, starts, [min(start + step, count) for start in starts]))


@cache
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"core.precision.{name}")
    except Exception as error:  # not installed, or not for this processor
        refuse(name, error)
        return None


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="precision")
