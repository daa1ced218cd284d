"""What operations cost beside their arithmetic and traffic, measured with a small real network on the device.

The network is diffusers' transformer of FLUX.1 with random weights: its layers' code runs as it does in a picture.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.hardware.calibrate_timing import borrowed, kernel_seconds, room
from core.hardware.interface import Accelerator, Work
from core.hardware.kernels import FUNCTION, flops_of, kind_of, launches, touched, traffic

_FUNCTION_BYTES = 64 * 2**20
_FUNCTION_BYTES_HOST = 2**20  # about what one layer of a small network holds
_ROW = 1024
_RUNS, _WARM_UPS = 7, 2
_MOST_SHARING = 1e-3
_SHAPES, _LATER = 7, 3
_CHANNELS, _EDGE = 32, 32  # about those of a small picture's autoencoder


class Rates(NamedTuple):
    """What is known of a device when its overheads are measured: per second, operations and bytes."""

    products: float
    functions: float
    memory: float


def function_rate(accelerator: Accelerator) -> float:
    """Bytes per second that kernels read and write which compute functions: GELU, SiLU, norm and softmax in turn."""
    dtype = accelerator.compute_dtype
    most = _FUNCTION_BYTES_HOST if accelerator.kind == "cpu" else _FUNCTION_BYTES
    size = room(accelerator, 1 / 16, most)
    with borrowed(accelerator, size) as (buffer,):
        buffer.zero_()
        x = buffer.view(dtype).view(-1, _ROW)
        functions: Sequence[Callable[[], object]] = (
            lambda: F.gelu(x, approximate="tanh"),
            lambda: F.silu(x),
            lambda: F.layer_norm(x, (_ROW,)),
            lambda: F.softmax(x, dim=-1),
        )
        work = Work(bytes=2 * size)
        seconds = [kernel_seconds(accelerator.compute_queue, function, work) for function in functions]
    return 2 * size * len(seconds) / sum(seconds)


def operation_seconds(accelerator: Accelerator) -> float:
    """Seconds that the host needs for each kernel of a network: one whose kernels have next to nothing to do."""
    run = _Run(accelerator, heads=2, channels=8, positions=16, tokens=8)
    return run.seconds() / len(run.kernels)


def sharing_seconds(accelerator: Accelerator, operation: float, rates: Rates) -> float:
    """Seconds that a processor needs to give a kernel to all of its cores: what a network takes besides all else.

    A kernel is never slowed to more than twice its time by that, or one core would do it alone.
    """
    run = _Run(accelerator, heads=4, channels=48, positions=256, tokens=64)
    each = [
        max(flops / rates.products, size / (rates.functions if kind == FUNCTION else rates.memory))
        for kind, flops, size in run.kernels
    ]
    left = run.seconds() - sum(each) - operation * len(each)
    low, high = 0.0, _MOST_SHARING
    for _ in range(20):
        middle = (low + high) / 2
        taken = sum(min(middle, seconds) for seconds in each)
        low, high = (middle, high) if taken < left else (low, middle)
    return low


def first_seconds() -> float:
    """Seconds that a processor needs to get ready for a convolution of a shape that it has not met in this process.

    oneDNN writes a kernel for each shape and lays the weights out for it, and keeps both. The median over some shapes,
    of the first call less the later ones.
    """
    samples = []
    with torch.no_grad():
        for number in range(_SHAPES):
            pixels = torch.zeros(1, _CHANNELS, _EDGE + number, _EDGE + 1)
            weight = torch.zeros(_CHANNELS, _CHANNELS, 3, 3)
            calls = []
            for _ in range(1 + _LATER):
                begin = time.perf_counter()
                F.conv2d(pixels, weight, padding=1)
                calls.append(time.perf_counter() - begin)
            samples.append(max(0.0, calls[0] - min(calls[1:])))
    return statistics.median(samples)


class _Run:
    """A transformer of four layers with its inputs on a device; `kernels` has kind, operations and bytes of each."""

    def __init__(self, accelerator: Accelerator, *, heads: int, channels: int, positions: int, tokens: int) -> None:
        self._accelerator = accelerator
        dtype, device, width = accelerator.compute_dtype, accelerator.device, heads * channels
        spatial = channels // 8 * 2
        network = importlib.import_module("diffusers").FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=3,
            attention_head_dim=channels,
            num_attention_heads=heads,
            joint_attention_dim=width,
            pooled_projection_dim=width,
            in_channels=16,
            axes_dims_rope=(channels - 2 * spatial, spatial, spatial),
        )
        self._network: nn.Module = network.eval().requires_grad_(False)
        for parameter in self._network.parameters():
            parameter.data = parameter.data.to(device, dtype)
        shapes = {
            "hidden_states": (1, positions, 16),
            "encoder_hidden_states": (1, tokens, width),
            "pooled_projections": (1, width),
            "timestep": (1,),
            "img_ids": (positions, 3),
            "txt_ids": (tokens, 3),
        }
        self._inputs = {name: torch.ones(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
        self.kernels: list[tuple[str, float, int]] = []
        with torch.no_grad(), _Seen(self.kernels):
            self._network(**self._inputs)

    def seconds(self) -> float:
        """Seconds of one pass among its like, by the host's clock.

        The shortest of a few: what else a machine does only ever adds.
        """
        samples = []
        with torch.no_grad(), self._accelerator.computing():
            for _ in range(_WARM_UPS + _RUNS):
                self._accelerator.synchronize()
                begin = time.perf_counter()
                self._network(**self._inputs)
                self._accelerator.synchronize()
                samples.append(time.perf_counter() - begin)
        return min(samples[_WARM_UPS:])


class _Seen(TorchDispatchMode):
    """Notes each kernel as (kind, operations, bytes)."""

    def __init__(self, kernels: list[tuple[str, float, int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kernels = kernels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if launches(func):
            size = sum(traffic(tensor) for tensor in touched(func, args, kwargs or {}, out))
            self._kernels.append((kind_of(func), flops_of(func, args, kwargs or {}, out), size))
        return out
