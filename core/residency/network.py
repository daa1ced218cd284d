"""One network whose weights come and go by slab: which blocks are on the device, and running it meanwhile."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from core.hardware.interface import Accelerator
from core.residency.adapters import Sides, Weighted
from core.residency.binding import Binding
from core.residency.folding import Folding
from core.residency.lockstep import meet
from core.residency.memory import DeviceMemory, Note
from core.residency.packed import PackedLinear, Scratch
from core.residency.placement import as_many_as_fit, resident_of
from core.residency.slabs import Division, Slab
from core.residency.staging import Staging
from core.residency.store import HostStore
from core.residency.streamer import REST, Streamer

# Slabs that stay may be copied in parts, so that a large embedding needs no pinned memory of its size.
_PART_BYTES = 64 << 20
_ATTEMPTS = 4  # of running a block when memory runs out


class Network:
    """A network in slabs. Its tensors are on the device as far as `place` says, and bound only inside `running`."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        division: Division,
        store: HostStore,
        accelerator: Accelerator,
        note: Note = lambda owner, change, reason: None,
        scratch: Scratch | None = None,
    ) -> None:
        """`module` runs its blocks through this from now on, until `close`. Packed layers decode into `scratch`."""
        self.name, self.module, self.division = name, module, division
        self._store, self._accelerator = store, accelerator
        self._sides = Sides(module, division, store)
        self._slabs: dict[int, Slab] = dict(enumerate(slab for _, slab in division.blocks))
        if division.rest.pieces:
            self._slabs[REST] = division.rest
        self._bindings = {
            number: Binding(module, slab, division.same, accelerator.absent) for number, slab in self._slabs.items()
        }
        layers = [layer for layer in module.modules() if isinstance(layer, PackedLinear)]
        scratch_bytes = max((layer.scratch_bytes for layer in layers), default=0)
        self._memory = DeviceMemory(name, accelerator, note, self._forget, scratch, scratch_bytes)
        self._on_device = self._memory.held
        self._streamer: Streamer | None = None
        self._is_ahead = False  # whether the streamer brings what a later phase needs
        self._inside: int | None = None  # the streamed block that is in its slot, for one call or for several
        self._staging: Staging
        # asked when memory runs out in a block; returns whether there is more room now, so that it may run again
        self.give_way: Callable[[str], bool] | None = None
        self.check: Callable[[], None] = _go_on  # raises when whoever waits for weights shall not
        self._link_bytes = 0
        self._streamed_bytes = 0
        self.folding = Folding(module, division, accelerator, note) if division.folded else None
        self._closed = False
        self._forwards = [block.__dict__.get("forward") for block, _ in division.blocks]
        for number, (block, _) in enumerate(division.blocks):
            block.forward = functools.update_wrapper(functools.partial(self._run, number, block.forward), block.forward)

    # -- what is on the device --------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return len(self.division.blocks)

    @property
    def resident(self) -> list[int]:
        """The blocks that have memory of their own on the device, rising."""
        return sorted(number for number in self._on_device if number > REST)

    @property
    def streamed(self) -> list[Slab]:
        """The slabs that come in every pass."""
        return [slab for number, (_, slab) in enumerate(self.division.blocks) if number not in self._on_device]

    @property
    def store(self) -> HostStore:
        """Where their bytes are."""
        return self._store

    @property
    def held_bytes(self) -> int:
        """Bytes of weights that have device memory of their own, without slots."""
        return self._memory.held_bytes

    @property
    def parts(self) -> list[int]:
        """Bytes of what can leave alone, in the order in which `keep` lets go of it."""
        return self._memory.parts

    @property
    def size(self) -> int:
        """Bytes with every block resident."""
        return self.division.size

    @property
    def largest(self) -> int:
        """The most bytes that staging must take at once: a streamed slab, or a fair part of the others."""
        folded = self.folding.largest if self.folding is not None else 0
        parts = min(_PART_BYTES, max(slab.size for slab in self._slabs.values()))
        return max(self._largest_streamed(self._on_device), folded, parts)

    @property
    def link_bytes(self) -> int:
        """Bytes that were copied to the device so far."""
        return self._link_bytes + (self._streamer.copied_bytes if self._streamer is not None else 0)

    @property
    def streamed_bytes(self) -> int:
        """Bytes that came in every pass when it ran last."""
        return self._streamed_bytes

    @property
    def folded_bytes(self) -> int:
        """Bytes that are not on the device while it runs."""
        return self.division.folded_bytes

    def resident_of(self, counts: Sequence[int] | None, slots: int, room: int) -> set[int]:
        """The blocks that a plan's counts keep resident, evenly spread; all where there are no counts.

        Where the plan knew blocks of other sizes, as many as fit with the slots into `room` bytes.
        """
        if counts is None:
            return set(range(self.blocks))
        resident = resident_of(self.division, counts)
        if resident is None:
            resident = as_many_as_fit(self.division, room, slots)
        return resident or set()

    def needed_bytes(self, resident: Collection[int], slots: int) -> int:
        """Bytes of device memory that `place` would take beyond what is held now."""
        wanted = {*resident, REST} & set(self._slabs)
        sides = self._sides.resident({*resident, REST}).values()
        weights = sum(slab.size for slab in (*(self._slabs[number] for number in wanted), *sides))
        slots_bytes = slots * self._largest_streamed(wanted)
        if self.folding is not None:
            slots_bytes += self.folding.missing_bytes
        return weights + slots_bytes + self._memory.scratch_bytes - self.held_bytes

    def adapt(self, wanted: Sequence[Weighted]) -> None:
        """Let these adapters be beside the network from now on. Not while it runs; nothing of the network moves."""
        if self._sides.change(wanted):
            self.free_slots()
            self._lay_beside(self._sides.resident([number for number in self._on_device if number >= REST]))
            self.division, self._store = self._sides.division, self._sides.store
            if self.folding is not None:
                self.folding.adapt(self.division.folded, self._sides.folded)

    @property
    def adapters(self) -> list[Weighted]:
        """What is beside the network."""
        return self._sides.weighted

    def place(
        self,
        resident: Collection[int],
        slots: int,
        reason: str = "needed by the phase",
        leaving: str = "streamed from now on",
    ) -> None:
        """Give device memory to these blocks and to what lies outside of blocks; take it from all others.

        Raises:
            torch.OutOfMemoryError: there is no room; what was given stays.
        """
        sides = self._sides.resident({*resident, REST})
        self._lay_beside(sides)
        wanted = ({*resident, REST} & set(self._slabs)) | set(sides)
        memory, size = self._memory, self._largest_streamed(wanted)
        count = slots if size else 0
        memory.keep_only(wanted, leaving)
        memory.drop_slots_unless(count, size)
        memory.make_slots(count, size)
        for number in sorted(set(sides) - set(self._on_device)):
            memory.give({number: self._slabs[number]}, reason)  # so that an adapter comes and goes alone
        memory.give({number: self._slabs[number] for number in wanted - set(self._on_device)}, reason)
        memory.make_scratch()
        if self.folding is not None:
            self.folding.place()

    def keep(self, size: int, reason: str) -> None:
        """Let go of device memory until at most `size` bytes are held: slots first, then the last blocks."""
        self.end_ahead()
        self.free_slots()
        if self.folding is not None:
            self.folding.end()
        self._memory.shrink(size, reason)  # REST is the last to go

    def release_files(self) -> None:
        """Let the OS forget what it remembers of the files."""
        self._store.advise(self.division.slabs, "DONTNEED")

    def close(self) -> None:
        """Leave the device, and let the module be what it was. May be called again."""
        if self._closed:
            return
        self._closed = True
        self.keep(0, "not needed any more")
        for binding in self._bindings.values():
            binding.restore()
        for (block, _), own in zip(self.division.blocks, self._forwards, strict=True):
            del block.forward
            if own is not None:
                block.forward = own  # somebody had put one there
        if self.folding is not None:
            self.folding.close()
        self._sides.close()

    # -- running ----------------------------------------------------------------------------------------------------

    @contextmanager
    def running(
        self, staging: Staging, passes: int | None = None, after: threading.Event | None = None
    ) -> Iterator[Streamer]:
        """Have the network ready to run: what is missing and what is streamed comes while it runs.

        `after` lets the copies of another network go first, as long as nobody waits for these.
        """
        self._staging = staging
        self._start(passes, after)
        assert self._streamer is not None
        try:
            yield self._streamer
        finally:
            self._stop()
            if self.folding is not None:
                self.folding.end()
            for binding in self._bindings.values():
                binding.unbind()

    def begin_ahead(
        self, resident: Collection[int], size: int, staging: Staging, after: threading.Event | None, reason: str
    ) -> threading.Event:
        """While another network runs, bring the first of what will be resident, so many bytes; `end_ahead` stops it.

        `after` lets other copies go first; what is returned is set behind these.
        """
        first: list[int] = []
        for number in sorted(({*resident, REST} & set(self._slabs)) - self._memory.filled):
            size -= self._slabs[number].size
            if size < 0:
                break
            first.append(number)
        with contextlib.suppress(torch.OutOfMemoryError):  # it will come when it is needed
            self._memory.give(
                {number: self._slabs[number] for number in first if number not in self._on_device}, reason
            )
        there = {number: self._on_device[number] for number in first if number in self._on_device}
        slabs = dict(sorted(self._slabs.items()))
        self._streamer = Streamer(
            self._accelerator, self._store, staging, slabs, missing=there, streamed=[], slots=[], after=after
        )
        self._is_ahead = True
        return self._streamer.loaded

    def end_ahead(self) -> None:
        """Let what has arrived be, and bring nothing more. May be called again."""
        if self._is_ahead:
            self._is_ahead = False
            self._stop()

    def ready(self) -> None:
        """Let the kernels that follow wait for what lies outside of blocks."""
        if self._streamer is not None:
            for number in [number for number in self._on_device if number <= REST]:
                self._streamer.need(number)

    def move(self, resident: Collection[int], slots: int, reason: str) -> None:
        """Place the network anew while it runs, between two blocks; with no resident block where that finds no room.

        Raises:
            torch.OutOfMemoryError: not even slots found room; the network cannot run on.
        """
        self._stop()
        try:
            self.place(resident, slots, reason, reason)
        except torch.OutOfMemoryError:
            self._accelerator.release_cached()
            self.place((), max(2, slots), reason, reason)
        self._start(None, None)
        self.ready()

    def _start(self, passes: int | None, after: threading.Event | None) -> None:
        streamed = [number for number in range(self.blocks) if number not in self._on_device]
        folding = self.folding
        self._streamer = Streamer(
            self._accelerator,
            self._store,
            self._staging,
            self._in_order(streamed),
            missing=self._memory.missing(),
            streamed=streamed,
            slots=self._memory.slots,
            passing=folding.numbers(self.blocks) if folding is not None else (),
            passing_slots=folding.slots if folding is not None else (),
            passes=passes,
            after=after,
            check=self._check,
        )
        if folding is not None:
            folding.begin(self._streamer, self.blocks)
        self._streamed_bytes = self.size - self.held_bytes
        for number, buffer in self._on_device.items():
            self._bindings[number].bind(buffer)

    def _in_order(self, streamed: Collection[int]) -> dict[int, Slab]:
        """Slabs in the order in which a pass needs them; folded layers come before their block, with numbers behind
        those of all blocks."""
        slabs = dict(sorted(self._slabs.items()))
        slabs |= {number: self.division.blocks[number][1] for number in streamed}
        if self.folding is None:
            return slabs
        before = {number: max(block, 0) - 0.5 for number, block in self.folding.numbers(self.blocks).items()}
        slabs |= {number: self.folding.slabs[number - self.blocks] for number in before}
        return dict(sorted(slabs.items(), key=lambda item: before.get(item[0], item[0])))

    def _stop(self) -> None:
        streamer, self._streamer = self._streamer, None
        if self._inside is not None:
            self._bindings[self._inside].unbind()
            self._sides.unbind(self._inside)
            self._inside = None
        if streamer is not None:
            streamer.stop()
            self._memory.filled |= streamer.arrived
            self._link_bytes += streamer.copied_bytes
            streamer.forget()

    def _check(self) -> None:
        self.check()

    def _run(self, number: int, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self.folding is not None and self.folding.pending:
            return forward(*args, **kwargs)
        if self._streamer is None:
            raise RuntimeError(f"the {self.name} runs while it is not held")
        last = number in self._on_device or meet(self, number)
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._once(number, last, forward, *args, **kwargs)
            except torch.OutOfMemoryError as error:
                if self.give_way is None:
                    raise
                problem = error.with_traceback(None)  # its frames would keep the block's activations alive
            try:
                if not self.give_way(f"memory ran out in block {number + 1} of the {self.name}"):
                    raise problem
            finally:
                del problem  # it leads to this frame, and all of them to what was computed
        return self._once(number, last, forward, *args, **kwargs)

    def _once(self, number: int, last: bool, forward: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a block, whose result depends on nothing but its arguments and its weights.

        A streamed one leaves behind the `last` call that needs it.
        """
        streamer = self._streamer
        assert streamer is not None
        if self.folding is not None:
            self.folding.compute_until(number)
        if number in self._on_device:
            streamer.need(number)
            self._bindings[number].check()
            return forward(*args, **kwargs)
        if self._inside != number:
            slot = streamer.enter(number)
            self._bindings[number].bind(slot)
            self._sides.bind(number, slot)
            self._inside = number
        try:
            self._bindings[number].check()
            return forward(*args, **kwargs)
        finally:
            if last:
                self.depart(number)

    def depart(self, number: int) -> None:
        """Let go of a streamed block that no call needs any more in this pass. May be called again."""
        if self._inside == number and self._streamer is not None:
            self._bindings[number].unbind()
            self._sides.unbind(number)
            self._streamer.leave(number)
            self._inside = None

    # ---------------------------------------------------------------------------------------------------------------

    def _largest_streamed(self, resident: Collection[int]) -> int:
        """Bytes of the largest slab that streams, with what lies beside its block."""
        blocks = enumerate(self.division.blocks)
        return max((slab.size for number, (_, slab) in blocks if number not in resident), default=0)

    def _lay_beside(self, sides: Mapping[int, Slab]) -> None:
        """Let these be the adapters' slabs of what is resident; those that were others before leave."""
        for number in [number for number in self._slabs if number < REST and self._slabs[number] != sides.get(number)]:
            self._memory.take(number, "adapters lie beside other layers from now on")
            del self._slabs[number], self._bindings[number]
        for number, slab in sides.items():
            if number not in self._slabs:
                self._slabs[number] = slab
                self._bindings[number] = self._sides.binding(slab, self._accelerator.absent)

    def _forget(self, number: int | None, buffer: torch.Tensor) -> None:
        """A buffer goes: let go of the views into it."""
        if number is not None:
            self._bindings[number].forget(buffer)
            return
        for binding in self._bindings.values():
            binding.forget(buffer)
        self._sides.forget(buffer)

    def free_slots(self) -> None:
        """Let go of the slots, and of the memory that weights are decoded into."""
        self._memory.free_slots()


def _go_on() -> None:
    """Nobody wants it stopped."""
