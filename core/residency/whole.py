"""A network on a device that shares the host's memory: it is there, whole, or it is not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from core.residency.adapters import OUTSIDE, Sides, Weighted
from core.residency.memory import Note
from core.residency.slabs import Division, Slab
from core.residency.staging import Staging
from core.residency.store import HostStore


class Whole:
    """A network that was read into the memory that kernels read; see Network for what the methods mean."""

    link_bytes = 0
    streamed_bytes = 0
    folding = None
    folded_bytes = 0
    give_way: Callable[[str], bool] | None = None
    check: Callable[[], None]

    def __init__(self, name: str, module: nn.Module, note: Note) -> None:
        self.name, self.module, self._note = name, module, note
        tensors = [*module.parameters(), *module.buffers()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        self._own = sum(storages.values())  # shared storage counted once
        self._device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        self._sides = Sides(module, Division(Slab("rest", ()), (), {}), HostStore({}))
        self._beside: dict[int, torch.Tensor] = {}  # buffers of adapters
        self.held_bytes = 0
        self.largest = 0

    @property
    def size(self) -> int:
        """Bytes of its weights and of what lies beside them."""
        return self._own + sum(buffer.nbytes for buffer in self._beside.values())

    @property
    def parts(self) -> list[int]:
        """It leaves whole."""
        return [self.held_bytes]

    @property
    def adapters(self) -> list[Weighted]:
        """What is beside the network."""
        return self._sides.weighted

    def adapt(self, wanted: Sequence[Weighted]) -> None:
        """Let these adapters be beside the network; what of them is not there yet is read."""
        if not self._sides.change(wanted):
            return
        slabs = self._sides.resident((OUTSIDE,))
        for number in self._beside.keys() - slabs.keys():
            del self._beside[number]
        for number, slab in slabs.items():
            if number not in self._beside:
                buffer = torch.empty(slab.size, dtype=torch.uint8)
                self._sides.store.fill(slab, buffer)
                self._beside[number] = buffer.to(self._device)
            self._sides.binding(slab, lambda tensor: tensor).bind(self._beside[number])
        if self.held_bytes and self.held_bytes != self.size:
            self._note(self.name, self.size - self.held_bytes, "adapters changed")
            self.held_bytes = self.size

    def resident_of(self, counts: object, slots: int, room: int) -> set[int]:
        """There is nothing to choose."""
        return set()

    def needed_bytes(self, resident: Collection[int], slots: int) -> int:
        """Its bytes, unless it is there."""
        return self.size - self.held_bytes

    def place(self, resident: Collection[int], slots: int, reason: str = "needed by the phase") -> None:
        """Note that it is there."""
        if not self.held_bytes:
            self.held_bytes = self.size
            self._note(self.name, self.size, reason)

    def keep(self, size: int, reason: str) -> None:
        """Let it go unless all of it may stay; who asked drops the module then."""
        if self.held_bytes > size:
            self._note(self.name, -self.held_bytes, reason)
            self.held_bytes = 0

    @contextmanager
    def running(
        self, staging: Staging, passes: int | None = None, after: threading.Event | None = None
    ) -> Iterator[None]:
        """Nothing has to come."""
        yield

    def free_slots(self) -> None:
        """There are none."""

    def move(self, resident: Collection[int], slots: int, reason: str) -> None:
        """It cannot be anywhere else."""

    def ready(self) -> None:
        """It is."""
