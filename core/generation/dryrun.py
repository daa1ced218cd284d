"""Runs a network on the meta device to learn what a pass needs: bytes beside the weights, and kernels by block.

A dispatch mode sees every operation. It holds each new storage by a weak reference, so what is alive is known at each
moment and without a byte being allocated; the same mode over real tensors is how it is checked against the allocator.

What is not counted: convolution and matrix workspaces of cuDNN, MIOpen and cuBLAS (up to some hundred MB, chosen on the
device), an allocator's rounding and fragments, and temporaries inside of one operation.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.generation.growth import Growth
from core.generation.metaops import MetaOps
from core.hardware.kernels import MOVE, PRODUCT, attention_flops, flops_of, kind_of, launches, touched, traffic
from core.residency.blocks import blocks

OUTSIDE = ""
"""The name under which operations outside of blocks are counted."""


class Launch(NamedTuple):
    """One kernel: its operation, kind (core.hardware.kernels), arithmetic, and traffic beside weights in bytes.

    `wide` is the traffic where everything is computed in F32; a cast between floats has none there, and no kernel.
    `weights` counts the numbers of weights that it reads.
    """

    name: str
    kind: str
    flops: int
    bytes: int
    wide: int
    weights: int


@dataclass(frozen=True)
class DryRun:
    """What one pass needed.

    `peak` is in bytes beside weights and buffers, the inputs included, and `peak_in` the block where it was reached;
    `output` are the bytes that it returns. `flops` counts a multiply-add as two, of matrix products, convolutions and
    attention only, by block in the order of first execution; `OUTSIDE` is what no block did. `operations` is how many
    the dispatcher saw. `kernels` has every kernel in order, by block. `allocated` are the sizes of all storages in the
    order in which they came, and `grew` those (by number) for which an allocator that keeps what is freed had to ask
    for more memory.
    """

    peak: int
    peak_in: str
    output: int
    flops: Mapping[str, int]
    operations: int
    kernels: Mapping[str, tuple[Launch, ...]] = field(default_factory=dict)
    allocated: tuple[int, ...] = ()
    grew: tuple[int, ...] = ()

    @property
    def total_flops(self) -> int:
        """Operations of the whole pass."""
        return sum(self.flops.values())


def dry_run(
    module: nn.Module, inputs: Mapping[str, Any], *, kernel: str = "efficient", call: Callable[..., Any] | None = None
) -> DryRun:
    """One pass of a network, counted.

    Args:
        module: in evaluation mode; on the meta device nothing is computed, on any other the pass is real (and with the
            efficient kernel its attention outputs are not filled).
        inputs: keyword arguments of the call, their tensors on the module's device.
        kernel: "efficient" counts an attention kernel that never holds its matrix (flash, memory-efficient), "math" the
            plain one, which holds it twice in f32 when it computes in 16 bit.
        call: what runs, e.g. `vae.decode`; the module itself where it is not given.
    """
    device = next(iter(module.parameters())).device
    tracker = _Tracker(device)
    tracker.ignore(module)
    for tensor in _tensors(dict(inputs)):
        tracker.meet(tensor)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_block_names(module, tracker))
        stack.enter_context(_EfficientAttention(tracker) if kernel == "efficient" else sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(tracker)
        output = (call or module)(**inputs)
    returned = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in _tensors(output)}
    return DryRun(
        tracker.peak,
        tracker.peak_in,
        sum(returned.values()),
        dict(tracker.flops),
        tracker.operations,
        {block: tuple(launches) for block, launches in tracker.kernels.items()},
        tuple(tracker.growth.allocated),
        tuple(tracker.growth.grew),
    )


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class _Tracker(TorchDispatchMode):
    """Live bytes of a device's storages that are no weights, their peak, and operations by block."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.block = OUTSIDE
        self.live = self.peak = 0
        self.peak_in = OUTSIDE
        self.flops: dict[str, int] = {}
        self.kernels: dict[str, list[Launch]] = {}
        self.growth = Growth()
        self.operations = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        self._weights: set[int] = set()
        self._operations = MetaOps()

    def ignore(self, module: nn.Module) -> None:
        """Leave a network's parameters and buffers out of the count."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._weights.add(tensor.untyped_storage()._cdata)

    def meet(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage for as long as it lives."""
        if tensor.device != self.device:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._weights:
            return
        size = storage.nbytes()
        give_back = self.growth.take(size)

        def forget(_: object) -> None:
            self.live -= size
            del self._known[key]
            give_back()

        self._known[key] = weakref.ref(storage, forget)
        self.live += size
        if self.live > self.peak:
            self.peak, self.peak_in = self.live, self.block

    def count(self, name: str, kind: str, flops: int, used: list[torch.Tensor], *, cast: bool = False) -> None:
        """Add a kernel to the block that runs."""
        size = wide = weights = 0
        for tensor in used:
            if tensor.untyped_storage()._cdata in self._weights:
                weights += traffic(tensor) // tensor.itemsize
                continue
            size += traffic(tensor)
            wide += traffic(tensor) // tensor.itemsize * 4 if tensor.is_floating_point() else traffic(tensor)
        self.kernels.setdefault(self.block, []).append(Launch(name, kind, flops, size, 0 if cast else wide, weights))
        if kind == PRODUCT:
            self.flops[self.block] = self.flops.get(self.block, 0) + flops

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype == torch.bool:
            return False  # a condition on values (is the mask full?) has no answer here; no is the general path
        out = self._operations.call(func, args, kwargs)
        if isinstance(out, torch.Tensor):
            self.meet(out)
        elif isinstance(out, (tuple, list)):
            for tensor in _tensors(out):
                self.meet(tensor)
        if launches(func):
            name, kind = func._overloadpacket.__name__, kind_of(func)
            used = touched(func, args, kwargs, out)
            flops = int(flops_of(func, args, kwargs, out)) if kind == PRODUCT else 0
            self.count(name, kind, flops, used, cast=kind == MOVE and name == "_to_copy" and _between_floats(used))
        return out


def _between_floats(used: list[torch.Tensor]) -> bool:
    """Whether it only changes one float type into another."""
    return all(tensor.is_floating_point() for tensor in used) and len({tensor.dtype for tensor in used}) > 1


class _EfficientAttention(TorchFunctionMode):
    """Stands in for scaled_dot_product_attention: allocates what a flash kernel does and counts its operations.

    On the meta device torch would decompose it into the maths path, whose matrix no flash kernel ever holds.
    """

    def __init__(self, tracker: _Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._attend(*args, **(kwargs or {}))

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        # flash and memory-efficient kernels lay their output out as (..., tokens, heads, channels) and keep the f32
        # log-sum of every row until they return
        *batch, heads, tokens, _channels = query.shape
        out = query.new_empty((*batch, tokens, heads, value.shape[-1])).transpose(-3, -2)
        query.new_empty((*batch, heads, tokens), dtype=torch.float32)
        flops = attention_flops(query.shape, key.shape, value.shape)
        self._tracker.count("attention", PRODUCT, flops, [query, key, value, out])
        return out


@dataclass
class _Names:
    tracker: _Tracker
    handles: list[Any] = field(default_factory=list)

    def watch(self, name: str, block: nn.Module) -> None:
        outer: list[str] = []

        def enter(_module: nn.Module, _args: Any) -> None:
            outer.append(self.tracker.block)
            self.tracker.block = name
            self.tracker.flops.setdefault(name, 0)

        def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
            self.tracker.block = outer.pop()

        self.handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]


@contextlib.contextmanager
def _block_names(module: nn.Module, tracker: _Tracker) -> Iterator[None]:
    """Tell the tracker which block runs, by its path in the network."""
    paths = {id(child): path for path, child in module.named_modules()}
    names = _Names(tracker)
    try:
        for block in blocks(module):
            # some lists hold bare containers, whose parts are called from outside (LTX-2's audio VAE)
            called = [block] if type(block).forward is not nn.Module.forward else [*block.modules()][1:]
            for part in called:
                names.watch(paths[id(block)], part)
        yield
    finally:
        for handle in names.handles:
            handle.remove()
