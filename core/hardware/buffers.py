"""Buffers of bytes: aligned ones in host memory, what poison looks like, and who holds how much on a device."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter

import torch

ALIGNMENT = 512  # what CUDA's allocator gives (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize); slabs need 256
# Every byte 0xFF: not a number in F32, F16, BF16 and F8_E4M3, and in the F16 scale of a block of any ggml format, so
# that whatever is decoded from it is not a number either; -1 as an integer, which no embedding has a row for.
POISON = 0xFF


def aligned_bytes(size: int) -> torch.Tensor:
    """An uninitialised host buffer, uint8 [size], at an address that divides by ALIGNMENT."""
    whole = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
    start = -whole.data_ptr() % ALIGNMENT
    return whole[start : start + size]


def poison(tensor: torch.Tensor) -> None:
    """Fill a host tensor with POISON, without disturbing torch's threads."""
    if tensor.numel() == 0:
        return
    if tensor.is_contiguous():
        ctypes.memset(tensor.data_ptr(), POISON, tensor.nbytes)
    elif tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    else:
        tensor.fill_(-1 if tensor.is_signed() else POISON)


def move(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a host tensor's bytes into another of the same shape and dtype, without disturbing torch's threads."""
    if target.is_contiguous() and source.is_contiguous():
        ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
    else:
        target.copy_(source)


class Holdings:
    """Buffers that were given out, by their storage. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[str, int]] = {}

    def add(self, tensor: torch.Tensor, owner: str) -> torch.Tensor:
        """Note that `owner` got a tensor, and return it."""
        with self._lock:
            self._held[_address(tensor)] = owner, tensor.nbytes
        return tensor

    def remove(self, tensor: torch.Tensor) -> None:
        """Note that it was given up."""
        with self._lock:
            self._held.pop(_address(tensor), None)

    def by_owner(self) -> dict[str, int]:
        """Bytes held now, by owner."""
        count: Counter[str] = Counter()
        with self._lock:
            for owner, size in self._held.values():
                count[owner] += size
        return dict(count)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
