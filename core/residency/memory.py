"""What one network has of a device's memory: arenas for slabs that stay, slots for those that stream, and scratch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from core.hardware.interface import Accelerator
from core.planning.reserve import ARENA_BYTES
from core.residency.packed import Scratch
from core.residency.slabs import Slab

SLOTS, SCRATCH = "slots", "scratch"

Note = Callable[[str, int, str], None]
"""Told of every change of device memory: owner (the component, SLOTS or SCRATCH), bytes, reason."""


class DeviceMemory:
    """Buffers by the numbers of slabs. One thread uses it: the launching one.

    `held` are those of slabs that stay, `filled` the numbers of those whose bytes have arrived, `slots` the others.
    """

    def __init__(
        self,
        name: str,
        accelerator: Accelerator,
        note: Note,
        forget: Callable[[int | None, torch.Tensor], None],
        scratch: Scratch | None = None,
        scratch_bytes: int = 0,
    ) -> None:
        """`forget` is called with each buffer that goes: with its slab's number, or None for a slot."""
        self.held: dict[int, torch.Tensor] = {}
        self.filled: set[int] = set()
        self.slots: list[torch.Tensor] = []  # views of one buffer
        self.scratch_bytes = scratch_bytes if scratch is not None else 0
        self._name, self._accelerator, self._note, self._forget = name, accelerator, note, forget
        self._scratch = scratch
        self._arenas: list[_Arena] = []

    @property
    def held_bytes(self) -> int:
        """Bytes of the arenas."""
        return sum(arena.buffer.nbytes for arena in self._arenas)

    @property
    def parts(self) -> list[int]:
        """Bytes of each arena in the order in which `shrink` frees them."""
        return [arena.buffer.nbytes for arena in sorted(self._arenas, key=lambda arena: -arena.numbers[0])]

    def missing(self) -> dict[int, torch.Tensor]:
        """Buffers whose bytes have not arrived."""
        return {number: buffer for number, buffer in self.held.items() if number not in self.filled}

    # -- slabs that stay ----------------------------------------------------------------------------------------------

    def give(self, slabs: Mapping[int, Slab], reason: str) -> None:
        """Give memory to slabs, in the order of their numbers, to several at once where they are small.

        Raises:
            torch.OutOfMemoryError: there is no room; what was given stays.
        """
        left = sorted(slabs)
        while left:
            count, total = 0, 0
            while count < len(left) and (not count or total + slabs[left[count]].size <= ARENA_BYTES):
                total += slabs[left[count]].size
                count += 1
            arena = _Arena(self._accelerator.allocate(total, self._name), tuple(left[:count]))
            self._arenas.append(arena)
            start = 0
            for number in arena.numbers:
                self.held[number] = arena.buffer[start : start + slabs[number].size]
                start += slabs[number].size
            self._note(self._name, total, reason)
            left = left[count:]

    def keep_only(self, wanted: Collection[int], reason: str) -> None:
        """Free each arena with a slab that is not wanted."""
        for arena in [arena for arena in self._arenas if not set(wanted).issuperset(arena.numbers)]:
            self._free(arena, reason)

    def take(self, number: int, reason: str) -> None:
        """Free the arena of a slab, if it has one."""
        for arena in [arena for arena in self._arenas if number in arena.numbers]:
            self._free(arena, reason)

    def shrink(self, size: int, reason: str) -> None:
        """Free arenas until at most `size` bytes are held, those of the last slabs first."""
        while self.held_bytes > size:
            self._free(max(self._arenas, key=lambda arena: arena.numbers[0]), reason)

    def _free(self, arena: _Arena, reason: str) -> None:
        self._arenas.remove(arena)
        for number in arena.numbers:
            self.filled.discard(number)
            self._forget(number, self.held.pop(number))
        self._accelerator.free(arena.buffer)
        self._note(self._name, -arena.buffer.nbytes, reason)

    # -- what comes and goes ------------------------------------------------------------------------------------------

    def drop_slots_unless(self, count: int, size: int) -> None:
        """Free slots that are not so many of this size; scratch goes with them."""
        if len(self.slots) != count or any(slot.nbytes != size for slot in self.slots):
            self.free_slots()

    def make_slots(self, count: int, size: int) -> None:
        """Have so many slots. Raises torch.OutOfMemoryError."""
        if count and not self.slots:
            buffer = self._accelerator.allocate(count * size, SLOTS)
            self.slots = list(buffer.split(size))
            self._note(SLOTS, buffer.nbytes, f"streamed blocks of {self._name}")

    def make_scratch(self) -> None:
        """Have memory that packed weights are decoded into. Raises torch.OutOfMemoryError."""
        if self._scratch is not None and self._scratch.buffer is None and self.scratch_bytes:
            self._scratch.buffer = self._accelerator.allocate(self.scratch_bytes, SCRATCH)
            self._note(SCRATCH, self.scratch_bytes, f"packed weights of {self._name} are decoded into it")

    def free_slots(self) -> None:
        """Free slots and scratch."""
        if self._scratch is not None and self._scratch.buffer is not None:
            self._accelerator.free(self._scratch.buffer)
            self._scratch.buffer = None
            self._note(SCRATCH, -self.scratch_bytes, "the phase is over")
        if not self.slots:
            return
        for slot in self.slots:
            self._forget(None, slot)
        size = sum(slot.nbytes for slot in self.slots)
        self._accelerator.free(self.slots[0])
        self.slots = []
        self._note(SLOTS, -size, "no block is streamed any more")


@dataclass(eq=False)
class _Arena:
    """One allocation on the device, and the slabs in it in their order."""

    buffer: torch.Tensor
    numbers: tuple[int, ...]
