"""What calibration measures of the device itself: memory, matrix products, decoding, launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch

from core.hardware.calibrate_decoders import Decoder
from core.hardware.calibrate_timing import borrowed, kernel_seconds, room
from core.hardware.interface import Accelerator, Work

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_MATMUL_SIDES = (256, 512, 1024, 2048, 4096)
_MATMUL_SECONDS = 0.004  # a product this long is large enough
_BANDWIDTH_BYTES = 128 * 2**20
_BANDWIDTH_BYTES_HOST = 48 * 2**20
_DECODE_ELEMENTS = 2**24
_DECODE_ELEMENTS_HOST = 2**20  # the eager decoders need milliseconds for so much on a CPU


def memory_bandwidth(accelerator: Accelerator) -> float:
    """Bytes per second that a copy inside the device's memory reads and writes."""
    most = _BANDWIDTH_BYTES_HOST if accelerator.kind == "cpu" else _BANDWIDTH_BYTES
    size = room(accelerator, 1 / 6, most)
    with borrowed(accelerator, size, size) as (target, source):
        source.zero_()
        copy = partial(target.copy_, source)
        return 2 * size / kernel_seconds(accelerator.compute_queue, copy, Work(bytes=2 * size))


class Product(NamedTuple):
    """A square matrix product of a format, and what it took."""

    format: str
    side: int
    seconds: float

    @property
    def rate(self) -> float:
        """Floating-point operations per second."""
        return 2 * self.side**3 / self.seconds

    @property
    def work(self) -> Work:
        """Its cost."""
        itemsize = DTYPES[self.format].itemsize
        return Work(flops=2 * self.side**3, bytes=3 * self.side**2 * itemsize, compute=self.format)


def matmul(accelerator: Accelerator, name: str, longest: float = _MATMUL_SECONDS) -> Product | None:
    """The largest square product that is quickly done; None where the device cannot compute in the format.

    The first that takes longer than `longest` seconds is the last that is tried.

    Smaller ones come first, so that a slow device does not get a large one.
    """
    best = None
    for side in _MATMUL_SIDES:
        size = side * side * DTYPES[name].itemsize
        if best is not None and size > room(accelerator, 1 / 16, size + 2**20):
            break
        trial = Product(name, side, 0.0)
        try:
            with product_kernel(accelerator, trial) as kernel:
                seconds = kernel_seconds(accelerator.compute_queue, kernel, trial.work)
        except (RuntimeError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                break
            return None  # no such dtype on this device
        best = Product(name, side, seconds)
        if seconds > longest:
            break
    return best


@contextmanager
def product_kernel(accelerator: Accelerator, product: Product) -> Iterator[Callable[[], object]]:
    """A matrix product on the device as a kernel, for the length of a `with`. Raises torch.OutOfMemoryError."""
    dtype, side = DTYPES[product.format], product.side
    with borrowed(accelerator, *[side * side * dtype.itemsize] * 3) as buffers:
        left, right, out = (buffer.view(dtype).view(side, side) for buffer in buffers)
        left.fill_(0.01)
        right.fill_(0.01)
        yield partial(torch.mm, left, right, out=out)


def decode_rate(accelerator: Accelerator, name: str, decoder: Decoder) -> float:
    """Bytes of 16-bit output per second when blocks of a stored format are decoded into the compute dtype."""
    elements = _DECODE_ELEMENTS_HOST if accelerator.kind == "cpu" else _DECODE_ELEMENTS
    elements = min(elements, room(accelerator, 1 / 16, elements))  # numbers as they are decoded, and their like beside
    blocks = elements // decoder.block_elements
    with borrowed(accelerator, blocks * decoder.block_bytes) as (data,):
        data.fill_(0x2C)  # as an F16 scale 0.067: an ordinary number, since others can take longer
        packed = data.view(blocks, decoder.block_bytes)
        kernel = partial(decoder.decode, packed, accelerator.compute_dtype)
        seconds = kernel_seconds(accelerator.compute_queue, kernel, Work(decoded_bytes=2 * elements, stored=name))
        return 2 * elements / seconds


def launch_seconds(accelerator: Accelerator) -> float:
    """Seconds that each of many kernels takes which have nothing to do."""
    with borrowed(accelerator, 512) as (one,):
        one.fill_(0)
        return kernel_seconds(accelerator.compute_queue, partial(one[:1].add_, 1), Work(bytes=2))
