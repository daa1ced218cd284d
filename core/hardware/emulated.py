"""A card that is not there: real arithmetic on the CPU under a device's laws of memory, order and time.

It is meant to be unforgiving. Memory runs out; a buffer is poison from the start of a copy into it until its end; what
was freed or is not held is poison; waiting for an event that nobody recorded raises, and so does freeing what a copy
still writes. Tensors lie in host memory and compute in F32 by default, so pixels equal the CPU's bit for bit.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _disable_current_modes

from core.hardware.buffers import aligned_bytes, move, poison
from core.hardware.caching import Block
from core.hardware.emulated_allocator import Allocator
from core.hardware.emulated_card import EmulatedCard, of_profile
from core.hardware.emulated_kernels import Kernels
from core.hardware.emulated_queues import EmulatedEvent, Operation, Worker, inside
from core.hardware.emulated_timeline import COMPUTE, COPY, Timeline
from core.hardware.interface import Event, Work
from core.hardware.profile import HardwareProfile
from core.messages import UserError


def emulated(
    profile: HardwareProfile, vram_bytes: int | None = None, link_rate: float | None = None, seed: int = 0
) -> EmulatedAccelerator:
    """A card like the profile's, with another memory (bytes) or link (bytes per second) where they are given.

    Raises:
        UserError: the profile's memory is the host's, so that there is nothing to move.
    """
    if profile.unified or not profile.pinned_rate:
        raise UserError(
            f"{profile.title} shares its memory with the host, and only cards with memory of their own are emulated; "
            "`residency simulate` plans for it."
        )
    return EmulatedAccelerator(of_profile(profile, vram_bytes, link_rate, seed))


class EmulatedAccelerator:
    """An accelerator with the numbers of an EmulatedCard."""

    kind = "emulated"
    vendor = "emulated"
    device = torch.device("cpu")
    has_own_memory = True
    unified = False

    def __init__(self, card: EmulatedCard, compute_dtype: torch.dtype = torch.float32) -> None:
        """Nothing runs until the first copy or kernel."""
        self.card = card
        self.eager = True  # networks run their kernels in the launching thread
        self.compute_dtype = compute_dtype
        self.name = card.title
        self._allocator = Allocator(card.memory_bytes - card.context_bytes, card.largest_allocation)
        self._lock = threading.Lock()
        self._buffers: dict[int, _Buffer] = {}
        self._pinned: dict[int, StorageWeakRef] = {}
        timeline = Timeline((card.copy_slowdown, card.compute_slowdown))
        self._workers = tuple(
            Worker(name, lane, timeline, jitter=card.jitter, dilation=card.dilation, seed=card.seed)
            for name, lane in (("copy", COPY), ("compute", COMPUTE))
        )
        self.copy_queue, self.compute_queue = (EmulatedQueue(self, worker) for worker in self._workers)
        self._close = weakref.finalize(self, _close, self._workers)
        me = weakref.proxy(self)  # the card must not keep itself alive
        self._kernels = Kernels(
            lambda size, owner: me._take(size, owner),
            lambda flops, size: me._kernel_seconds(flops, size),
            lambda address: address in me._buffers,
        )

    @property
    def identity(self) -> str:
        """All of the card's true numbers: another card must not find this one's calibration."""
        return repr(self.card)

    @property
    def attention(self) -> tuple[str, ...]:
        """What the profile says; the arithmetic is the CPU's whatever the name."""
        return self.card.attention

    @property
    def lag_seconds(self) -> float:
        """The most that real time was behind modelled time: what the host's clock tells is wrong by as much."""
        return max(worker.lag_seconds for worker in self._workers)

    def event(self) -> Event:
        """An event that nobody has recorded yet."""
        return EmulatedEvent(self.card.dilation)

    def synchronize(self) -> None:
        """Wait until both queues are empty. Raises RuntimeError when something in them failed."""
        for worker in self._workers:
            worker.synchronize()

    def close(self) -> None:
        """End the two threads; they end by themselves when nobody has the card any more."""
        self._close()

    # -- memory -----------------------------------------------------------------------------------------------------

    def memory(self) -> tuple[int, int]:
        """Bytes: (total, free); context, reserve and what other programs took are not free."""
        self._kernels.drain()
        taken = self._allocator.reserved + self._allocator.taken_by_others
        return self.card.memory_bytes, max(0, self._allocator.capacity - taken)

    @property
    def largest_allocation(self) -> int | None:
        """The most bytes of one allocation."""
        return self.card.largest_allocation

    def occupy(self, size: int) -> None:
        """Let other programs hold `size` bytes of the card from now on."""
        self._allocator.taken_by_others = size

    def budget_bytes(self, held_bytes: int = 0, headroom_bytes: int | None = None) -> int:
        """Free memory, what is reserved but unallocated, and what we hold of it already, less the headroom."""
        free = self.memory()[1] + self._allocator.reserved - self._allocator.allocated
        headroom = self.card.headroom_bytes if headroom_bytes is None else headroom_bytes
        return max(0, free + held_bytes - headroom)

    def allocate(self, size: int, owner: str) -> torch.Tensor:
        """A poisoned buffer: uint8 [size]. Raises torch.OutOfMemoryError."""
        buffer = self._reserve(size, owner)
        poison(buffer)
        return buffer

    def place(self, tensor: torch.Tensor, owner: str) -> torch.Tensor:
        """A copy of a host tensor, which crossed the link at the pageable rate unless it is pinned."""
        like = torch.empty_like(tensor, device="meta")  # its strides are what a copy's are: dense, same order
        target = self._reserve(like.nbytes, owner).view(like.dtype).as_strided(like.shape, like.stride())
        self.copy_queue.copy(target, tensor)
        self.copy_queue.synchronize()
        return target

    def free(self, tensor: torch.Tensor) -> None:
        """Give a buffer back; it is poisoned once the kernels launched before are done.

        Raises:
            RuntimeError: a copy to or from it is still in flight, or it was freed before.
        """
        with self._lock:
            buffer = self._buffers.pop(_address(tensor), None)
        if buffer is None:
            raise RuntimeError("this was freed before or never lay on the emulated card")
        if buffer.copies:
            raise RuntimeError("freed while a copy to or from it is in flight: the copy would hit its next owner")
        self._allocator.free(buffer.block)
        self._workers[COMPUTE].put(Operation(0.0, partial(poison, buffer.data)))

    def held_bytes(self) -> Mapping[str, int]:
        """Bytes given out and not freed, by owner."""
        return self._allocator.by_owner()

    def pinned(self, size: int) -> torch.Tensor:
        """A host buffer, uint8 [size], that copies read at the pinned rate."""
        with _disable_current_modes():  # the host's memory is not the card's
            buffer = aligned_bytes(size)
        with self._lock:
            self._pinned = {address: alive for address, alive in self._pinned.items() if not alive.expired()}
            self._pinned[_address(buffer)] = StorageWeakRef(buffer.untyped_storage())
        return buffer

    def discard(self, buffer: torch.Tensor) -> None:
        """Poison a host buffer."""
        poison(buffer)

    def absent(self, host: torch.Tensor) -> torch.Tensor:
        """Poison of the host tensor's shape and dtype, one number in memory."""
        one = torch.empty((), dtype=host.dtype)
        poison(one)
        return one.expand(host.shape)

    def catch_up(self) -> None:
        """Wait for the compute queue, unless all kernels are launched through it (`eager` is False)."""
        if self.eager:
            self.compute_queue.synchronize()

    @property
    def context_bytes(self) -> int | None:
        """The card's own."""
        return self.card.context_bytes

    def peak_bytes(self) -> int:
        """The reserve at its highest, without the driver's context, which torch never counts."""
        self._kernels.drain()
        return self._allocator.peak_reserved

    def reset_peak(self) -> None:
        """Start counting the peak anew."""
        self._allocator.reset_peaks()

    def limit(self, size: int) -> None:
        """Tell the allocator."""
        self._allocator.limit = size

    def release_cached(self) -> None:
        """Give free segments back to the driver."""
        self._kernels.drain()
        self._allocator.release_cached()

    def computing(self) -> AbstractContextManager[object]:
        """While it is entered, what this thread computes takes the card's memory and its time."""
        return self._kernels

    def _take(self, size: int, owner: str) -> Callable[[], None]:
        return partial(self._allocator.free, self._allocator.allocate(size, owner))

    def _kernel_seconds(self, flops: float, size: float) -> float:
        compute = "F32" if self.compute_dtype == torch.float32 else "BF16"
        return self.card.dilation * self.card.kernel_seconds(Work(flops=flops, bytes=size, compute=compute))

    def _reserve(self, size: int, owner: str) -> torch.Tensor:
        block = self._allocator.allocate(size, owner)
        with _disable_current_modes():  # it stands for device memory that is counted already
            buffer = aligned_bytes(size)
        with self._lock:
            self._buffers[_address(buffer)] = _Buffer(block, buffer)
        return buffer

    # -- for the queues ---------------------------------------------------------------------------------------------

    def _enqueue_copy(self, worker: Worker, target: torch.Tensor, source: torch.Tensor, needed: bool) -> None:
        if target.shape != source.shape or target.dtype != source.dtype:
            raise ValueError("a copy moves bytes: shapes and dtypes must be the same")
        with self._lock:
            ends = [buffer for end in (target, source) if (buffer := self._buffers.get(_address(end)))]
            for buffer in ends:
                buffer.copies += 1
        size = source.nbytes
        waits = False
        if len(ends) == 2:
            seconds = self.card.move_seconds(size)
        elif ends:
            host = source if _address(target) == _address(ends[0].data) else target
            alive = self._pinned.get(_address(host))
            pinned = alive is not None and not alive.expired()
            seconds = self.card.copy_seconds(size, pinned=pinned)
            waits = not pinned  # drivers stage pageable memory themselves and return when they have read it
        else:
            raise ValueError("neither end of this copy lies on the emulated card, or it was freed")

        def arrive() -> None:
            if needed:
                move(target, source)
            with self._lock:
                for buffer in ends:
                    buffer.copies -= 1

        worker.put(Operation(seconds, start=partial(poison, target) if needed else None, end=arrive))
        if waits:
            worker.synchronize()


class EmulatedQueue:
    """A queue of an emulated card: copies and kernels in order, each for its modelled time."""

    def __init__(self, accelerator: EmulatedAccelerator, worker: Worker) -> None:
        self._accelerator = weakref.proxy(accelerator)
        self._card = accelerator.card
        self._worker = worker

    def copy(self, target: torch.Tensor, source: torch.Tensor, *, needed: bool = True) -> None:
        """Enqueue a copy: the target is poison when it starts and holds the source's bytes when it ends.

        Of a copy that is not `needed` only the time passes.

        Raises:
            ValueError: neither end is on the card, or shapes or dtypes differ.
        """
        self._accelerator._enqueue_copy(self._worker, target, source, needed)

    def launch(self, kernel: Callable[[], object], work: Work | None = None, *, needed: bool = True) -> None:
        """Enqueue a kernel, which takes its modelled time, or the time it takes where `work` is not given.

        One that is not `needed` is left out where its time is modelled. What it raises comes with `synchronize`.
        """
        seconds = self._seconds(work)
        self._worker.put(Operation(seconds, kernel if needed or seconds is None else None))

    def running(self, work: Work | None = None) -> AbstractContextManager[None]:
        """Run the `with` in its turn; the caller waits for the turn, not for the modelled end."""
        return inside(self._worker, self._seconds(work))

    def record(self, event: Event | None = None) -> Event:
        """Put a mark behind what was enqueued so far."""
        event = event or EmulatedEvent(self._card.dilation)
        assert isinstance(event, EmulatedEvent)
        self._worker.record(event.renew())
        return event

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on wait for the event. Raises EventNotRecordedError."""
        assert isinstance(event, EmulatedEvent)
        self._worker.wait(event.ticket())

    def synchronize(self) -> None:
        """Wait until everything enqueued so far has been done. Raises RuntimeError when something failed."""
        self._worker.synchronize()

    def _seconds(self, work: Work | None) -> float | None:
        return None if work is None else self._card.kernel_seconds(work)


class _Buffer:
    """What lies on the card: its place in the account, its bytes, and how many copies are at it."""

    def __init__(self, block: Block, data: torch.Tensor) -> None:
        self.block = block
        self.data = data
        self.copies = 0


def _address(tensor: torch.Tensor) -> int:
    """A storage's address: views of one buffer share it."""
    return tensor.untyped_storage().data_ptr()


def _close(workers: tuple[Worker, ...]) -> None:
    for worker in workers:
        worker.close()
