"""What counts as a kernel, and what it reads, writes and computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from core.hardware.accelerator import TorchAccelerator
from core.hardware.calibrate_network import Rates, function_rate, operation_seconds, sharing_seconds
from core.hardware.kernels import flops_of, kind_of, launches, touched, traffic
from tests.cards import emulated

Seen = list[tuple[str, float, int]]


class Watch(TorchDispatchMode):
    def __init__(self, seen: Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if launches(func):
            used = touched(func, args, kwargs or {}, out)
            self.seen.append((kind_of(func), flops_of(func, args, kwargs or {}, out), sum(map(traffic, used))))
        return out


def seen_of(call: Callable[[], object]) -> Seen:
    seen: Seen = []
    with torch.no_grad(), Watch(seen):
        call()
    return seen


X, Y = torch.ones(8, 16), torch.ones(16, 32)
TABLE, ROWS = torch.ones(1000, 16), torch.tensor([3, 4])
FLOATS = 4


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: X @ Y, [("product", 2 * 8 * 16 * 32, (8 * 16 + 16 * 32 + 8 * 32) * FLOATS)]),
        (lambda: X + X, [("move", 0, 3 * 8 * 16 * FLOATS)]),
        (lambda: F.silu(X), [("function", 0, 2 * 8 * 16 * FLOATS)]),
        (lambda: torch.softmax(X, -1), [("function", 0, 2 * 8 * 16 * FLOATS)]),
        (lambda: X.view(16, 8).transpose(0, 1)[2:], []),
        (lambda: torch.empty(100), []),
        (lambda: X.new_empty(100), []),
        # two rows of the table are read, not all of it; their numbers are 8 bytes each
        (lambda: F.embedding(ROWS, TABLE), [("move", 0, 2 * 8 + 2 * 2 * 16 * FLOATS)]),
        (lambda: torch.ones(8, 1).expand(8, 16) + X, [("move", 0, 8 * FLOATS), ("move", 0, (8 + 2 * 128) * FLOATS)]),
        (lambda: torch.empty_like(X).copy_(X), [("move", 0, 2 * 8 * 16 * FLOATS)]),
    ],
)
def test_what_a_kernel_touches(call: Callable[[], object], expected: Seen) -> None:
    seen = seen_of(call)
    assert [(kind, flops) for kind, flops, _ in seen] == [(kind, flops) for kind, flops, _ in expected]
    for (_, _, size), (_, _, wanted) in zip(seen, expected, strict=True):
        assert size == wanted


def test_attention_is_one_product() -> None:
    q = torch.ones(1, 4, 128, 32)
    seen = [kernel for kernel in seen_of(lambda: F.scaled_dot_product_attention(q, q, q)) if kernel[1]]
    assert [(kind, flops) for kind, flops, _ in seen] == [("product", 4 * 4 * 128 * 128 * 32)]


def test_a_network_is_the_sum_of_its_layers() -> None:
    network = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4))
    kinds = [kind for kind, _, _ in seen_of(lambda: network(X))]
    assert kinds == ["product", "function", "product"]


# -- calibration with a small network -------------------------------------------------------------------------------


def test_overheads_are_measured_through_the_interface() -> None:
    device = emulated(
        title="A card whose kernels take half a millisecond each",
        memory_bytes=2**28,
        context_bytes=0,
        headroom_bytes=0,
        memory_bandwidth=30e9,
        launch_seconds=5e-4,
    )
    assert operation_seconds(device) > 4e-4  # no kernel takes less than its launch, however idle this machine is
    assert function_rate(device) == pytest.approx(30e9, rel=0.01)
    assert device.held_bytes() == {}
    device.close()


def test_a_processor_has_overheads_too() -> None:
    processor = TorchAccelerator("cpu", "CPU")
    rates = Rates(1e11, function_rate(processor), 1e10)
    assert 1e8 < rates.functions < 1e13
    operation = operation_seconds(processor)
    assert 1e-7 < operation < 1e-2
    sharing = sharing_seconds(processor, operation, rates)
    assert 0 <= sharing <= 1e-3
    assert sharing_seconds(processor, 10.0, rates) == 0.0  # nothing is left to be explained
