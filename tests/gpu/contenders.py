"""Ways to run a network in less device memory than it has weights: ours, and those of other projects.

Each is used as its own documentation says, with what it offers for speed turned on, and given as much of the budget as
it takes. Where several attempts are allowed, a later one asks for less memory than the one before.

Sources, read in November 2026:
- diffusers 0.42, `ModelMixin.enable_group_offload`; `record_stream` is faster at the price of memory.
- accelerate 1.15, `cpu_offload`: what `enable_sequential_cpu_offload` of a diffusers pipeline calls for each network.
- mmgp 3.8.2, `offload.all`: `budgets` in MB, "the maximum size that every model will occupy at any moment".
- RamTorch 1.11, `OffloadModel`: chunks cut by hand, `window` slots and `pin` resident chunks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from core.hardware.interface import Accelerator
from core.residency import stream
from core.residency.packed import PackedLinear

# The share of the room for weights that an attempt takes; allocators need some to work in.
_SHARES = (0.97, 0.92, 0.85, 0.75, 0.6, 0.45)
_WINDOW = 2  # RamTorch's default

# Which lists of blocks RamTorch gets as one chain, and what passes from block to block, in a block's words.
_CHAINS = {
    "FluxTransformer2DModel": (
        ("transformer_blocks", "single_transformer_blocks"),
        ("encoder_hidden_states", "hidden_states"),
    ),
    "QwenImageTransformer2DModel": (("transformer_blocks",), ("encoder_hidden_states", "hidden_states")),
    "ZImageTransformer2DModel": (("layers",), ("x",)),
    "WanTransformer3DModel": (("blocks",), ("hidden_states",)),
}


@dataclass(frozen=True)
class Running:
    """A network that can be called. `streamed_bytes` of each pass where they are known; `setting` in words."""

    setting: str
    stop: Callable[[], None]
    streamed_bytes: int | None = None


@dataclass(frozen=True)
class Contender:
    """`start(module, accelerator, room, attempt)` readies a network in host memory; `room` are bytes for weights.

    Attributes:
        by_budget: whether it can use more memory where there is more; else it is started once for all budgets.
        restores: whether after `stop`, or a start that failed, the network is as it was; else a new one is made.
        host_copies: how many times the weights lie in host memory, roughly.
    """

    start: Callable[[nn.Module, Accelerator, int, int], Running]
    attempts: int = 1
    by_budget: bool = False
    restores: bool = False
    host_copies: float = 1.0
    ours: bool = False


def _scratch(module: nn.Module, accelerator: Accelerator) -> tuple[int, Callable[[], None]]:
    """One buffer that all packed layers decode into, as in the engine: (its bytes, what frees it)."""
    packed = [layer for layer in module.modules() if isinstance(layer, PackedLinear)]
    if not packed:
        return 0, lambda: None
    scratch, size = packed[0].scratch, max(layer.scratch_bytes for layer in packed)
    scratch.buffer = accelerator.allocate(size, "scratch")

    def free() -> None:
        buffer, scratch.buffer = scratch.buffer, None
        if buffer is not None:
            accelerator.free(buffer)

    return size, free


def _resident(module: nn.Module, accelerator: Accelerator, room: int, attempt: int) -> Running:
    _, free = _scratch(module, accelerator)
    module.to(accelerator.device)

    def stop() -> None:
        module.to("cpu")
        free()

    return Running("everything on the device", stop, 0)


def _streamed(module: nn.Module, accelerator: Accelerator, room: int, attempt: int, *, pinned: bool) -> Running:
    taken, free = _scratch(module, accelerator)
    try:
        handle = stream(module, accelerator, int((room - taken) * _SHARES[attempt]), pinned=pinned)
    except BaseException:
        free()
        raise

    def stop() -> None:
        handle.release()
        free()

    setting = f"{handle.resident_blocks} of {handle.blocks} blocks resident"
    return Running(setting, stop, handle.streamed_bytes)


def _group(module: Any, accelerator: Accelerator, room: int, attempt: int, *, level: str) -> Running:
    streams = accelerator.has_own_memory
    recorded = streams and attempt == 0
    module.enable_group_offload(
        onload_device=accelerator.device,
        offload_device=torch.device("cpu"),
        offload_type=level,
        num_blocks_per_group=1 if level == "block_level" else None,
        use_stream=streams,
        record_stream=recorded,
    )
    return Running(f"use_stream={streams}, record_stream={recorded}", lambda: None)


def _sequential(module: nn.Module, accelerator: Accelerator, room: int, attempt: int) -> Running:
    from accelerate import cpu_offload

    cpu_offload(module, accelerator.device, offload_buffers=bool(module._parameters))
    return Running("weight by weight, from pageable memory", lambda: None)


def _mmgp(module: nn.Module, accelerator: Accelerator, room: int, attempt: int) -> Running:
    from mmgp import offload

    megabytes = int(room * _SHARES[attempt]) >> 20
    manager = offload.all(
        {"transformer": module},
        pinnedMemory=True,
        quantizeTransformer=False,
        budgets={"transformer": megabytes},
        asyncTransfers=True,
        perc_reserved_mem_max=0.7,  # of host memory; by default it pins only a part of what is large
        verboseLevel=0,
    )
    torch.set_default_device(None)  # which it sets to the card
    return Running(f"budget {megabytes} MB, pinned, asynchronous", manager.release)


def _ramtorch(module: nn.Module, accelerator: Accelerator, room: int, attempt: int) -> Running:
    from ramtorch import OffloadModel
    from ramtorch.offload_simulator import evenly_pinned

    lists, passed = _CHAINS[type(module).__name__]
    chunks = [_Chunk(block, passed) for name in lists for block in getattr(module, name)]
    before = {name: getattr(module, name) for name in lists}
    for name in lists:
        setattr(module, name, nn.ModuleList())
    rest = sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
    module.to(accelerator.device)
    sizes = [sum(tensor.nbytes for tensor in [*chunk.parameters(), *chunk.buffers()]) for chunk in chunks]
    spare = int(room * _SHARES[attempt]) - rest
    fits = [
        count
        for count in range(len(chunks) + 1)
        if sum(sizes[number] for number in evenly_pinned(len(chunks), count))
        + (_WINDOW * max(sizes) if count < len(chunks) else 0)
        <= spare
    ]
    pinned = max(fits, default=0)
    model = OffloadModel(chunks, device=accelerator.device, window=_WINDOW, pin=pinned)
    setattr(module, lists[0], nn.ModuleList([_Chain(chunks, model, passed)]))
    streamed = sum(size for number, size in enumerate(sizes) if number not in model.pinned_layers)

    def stop() -> None:
        model.close()
        for name, blocks in before.items():
            setattr(module, name, blocks)
        module.to("cpu")

    return Running(f"window {_WINDOW}, {pinned} of {len(chunks)} chunks pinned", stop, streamed)


class _Chunk(nn.Module):
    """A block whose positional arguments are what the block before it returns; the others are the same for all."""

    def __init__(self, block: nn.Module, passed: tuple[str, ...]) -> None:
        super().__init__()
        self.block, self.passed = block, passed
        self.same: dict[str, Any] = {}

    def forward(self, *passed: torch.Tensor) -> object:
        return self.block(**self.same, **dict(zip(self.passed, passed, strict=True)))


class _Chain(nn.Module):
    """Stands in a network's list of blocks for all of them."""

    def __init__(self, chunks: list[_Chunk], model: nn.Module, passed: tuple[str, ...]) -> None:
        super().__init__()
        self._run = [model]  # in a list: the network must not find its parameters
        self._chunks = [chunks]
        self._passed = passed
        self._signature = inspect.signature(chunks[0].block.forward)

    def forward(self, *args: Any, **kwargs: Any) -> object:
        same = dict(self._signature.bind(*args, **kwargs).arguments)
        passed = tuple(same.pop(name) for name in self._passed)
        for chunk in self._chunks[0]:
            chunk.same = same
        return self._run[0](passed if len(passed) > 1 else passed[0])


RESIDENT = "resident"
OURS = "residency"
CONTENDERS = {
    RESIDENT: Contender(_resident, restores=True),
    OURS: Contender(partial(_streamed, pinned=True), len(_SHARES), True, True, 2.5, ours=True),
    "residency-ring": Contender(partial(_streamed, pinned=False), len(_SHARES), True, True, ours=True),
    "group-block": Contender(partial(_group, level="block_level"), 2, host_copies=2.0),
    "group-leaf": Contender(partial(_group, level="leaf_level"), 2, host_copies=2.0),
    "sequential": Contender(_sequential),
    "mmgp": Contender(_mmgp, len(_SHARES), True, host_copies=2.0),
    "ramtorch": Contender(_ramtorch, len(_SHARES), True, True, 2.0),
}
PEERS = tuple(name for name, contender in CONTENDERS.items() if name != RESIDENT and not contender.ours)
