"""Runs any network of diffusers or transformers in less device memory than it has weights, in one call.

    handle = stream(pipeline.transformer, "cuda", vram="3GB")
    image = pipeline(prompt).images[0]
    handle.release()

What the network computes is bit for bit what it computes with all weights on the device. Adapters (LoRA) that are there
when it is called are streamed with their blocks.
"""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from core.hardware.accelerator import choose
from core.hardware.interface import Accelerator
from core.messages import UserError
from core.residency.network import Network
from core.residency.placement import as_many_as_fit, smallest_bytes
from core.residency.slabs import divide
from core.residency.staging import PinnedSlabs, Ring, Staging
from core.residency.store import HostStore
from core.sizes import byte_size, in_words


class Handle:
    """A network that is streamed. `release` makes it what it was."""

    def __init__(self, network: Network, staging: Staging) -> None:
        self._network = network
        self._running = contextlib.ExitStack()
        self._running.enter_context(network.running(staging))
        network.ready()

    @property
    def resident_blocks(self) -> int:
        """How many blocks stay on the device."""
        return len(self._network.resident)

    @property
    def blocks(self) -> int:
        """How many blocks the network has."""
        return self._network.blocks

    @property
    def streamed_bytes(self) -> int:
        """Bytes that cross the link in each pass."""
        return self._network.streamed_bytes

    def release(self) -> None:
        """Give the device's memory back and let the network have its own tensors again. May be called twice."""
        self._running.close()
        self._network.close()


def stream(
    module: nn.Module,
    device: str | torch.device | Accelerator = "cuda",
    vram: str | int = "3GB",
    *,
    slots: int = 2,
    pinned: bool = False,
) -> Handle:
    """Let a network run on a device with at most `vram` of its memory for weights.

    Args:
        module: a network whose weights are in host memory, with its repeated layers in `nn.ModuleList`s. It keeps them
            there; nothing may cast or move it before `release`.
        device: cuda (also ROCm's name), xpu, or an accelerator.
        vram: bytes for resident weights and slots, or a size such as "3GB".
        slots: device buffers that streamed blocks take turns in.
        pinned: keep streamed weights in pinned host memory too: no staging, at the price of as much memory again.

    Raises:
        UserError: the device shares the host's memory, or not even one way to place the network fits.
    """
    accelerator = device if not isinstance(device, (str, torch.device)) else choose(torch.device(device).type)
    if not accelerator.has_own_memory:
        raise UserError(f"{accelerator.name} computes in the host's memory, so there is nothing to stream.")
    if any(hasattr(part, "_hf_hook") for part in module.modules()):
        raise UserError("The network has hooks of accelerate on it; remove them first (remove_all_hooks).")
    room = byte_size(vram) if isinstance(vram, str) else vram
    division = divide(module)
    resident = as_many_as_fit(division, room, slots)
    if resident is None:
        least = smallest_bytes(division, slots)
        raise UserError(f"{in_words(room)} are too little for this network; {in_words(least)} is the least.")
    store = HostStore.in_memory(module, division)
    network = Network(type(module).__name__, module, division, store, accelerator)
    try:
        network.place(resident, slots)
        ring = Ring(accelerator, network.largest)
        return Handle(network, PinnedSlabs(accelerator, ring, store, network.streamed) if pinned else ring)
    except BaseException:
        network.close()
        raise
