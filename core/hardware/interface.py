"""What the rest of the engine knows of a device: its memory, two queues of work, and events between them.

Three things implement it: CUDA, ROCm and XPU cards through torch; the CPU and Apple's GPUs, which have one memory and
no link; and emulated cards. What differs between them (pinned memory, streams, poison) differs behind these names only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch


class EventNotRecordedError(RuntimeError):
    """Somebody waits for an event that was never recorded. Drivers say nothing then and do not wait at all."""

    def __init__(self) -> None:
        super().__init__("an event was waited for before it was recorded: on a device that is no wait at all")


@dataclass(frozen=True)
class Work:
    """What a kernel costs, for a device that models its time; the others take the time they take.

    Attributes:
        flops: floating-point operations, a multiply-add counted as two, in the format `compute` (F32, F16, BF16).
        bytes: bytes of device memory that are read and written.
        decoded_bytes: bytes that decoding weights from the format `stored` (Q8_0, Q4_K, ...) puts out.
        seconds: the time itself, where it is known; the rest is then not looked at.
    """

    flops: float = 0.0
    bytes: float = 0.0
    compute: str = "F32"
    decoded_bytes: float = 0.0
    stored: str = ""
    seconds: float | None = None


class Event(Protocol):
    """A mark in a queue. Every method raises EventNotRecordedError before the event was recorded."""

    @property
    def recorded(self) -> bool:
        """Whether a queue has been asked to record it."""
        ...

    def query(self) -> bool:
        """Whether the queue has come past it."""
        ...

    def synchronize(self) -> None:
        """Wait until the queue has come past it."""
        ...

    def seconds_since(self, earlier: Event) -> float:
        """Seconds between two events of one device, as the device counts them; both must have happened."""
        ...


class Queue(Protocol):
    """Work that a device does in order. Queues of a device run beside each other; only events order them."""

    def copy(self, target: torch.Tensor, source: torch.Tensor, *, needed: bool = True) -> None:
        """Copy between host and device, or on the device; shapes and dtypes are the same.

        From pinned host memory it is only enqueued: neither end may change before an event behind it has happened. From
        pageable memory the caller may have to wait, as drivers make it wait. A device that models time may leave the
        bytes of a copy behind that is not `needed`.
        """
        ...

    def launch(self, kernel: Callable[[], object], work: Work | None = None, *, needed: bool = True) -> None:
        """Enqueue a kernel. A device that models time may leave one out whose result is not `needed`."""
        ...

    def running(self, work: Work | None = None) -> AbstractContextManager[None]:
        """Launch what the `with` does from this thread, after everything that was enqueued before."""
        ...

    def record(self, event: Event | None = None) -> Event:
        """Put a mark behind what was enqueued so far: the event given, else a new one. Returns it."""
        ...

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on wait for the newest recording of the event. The host does not wait.

        Raises:
            EventNotRecordedError: nobody has recorded it yet.
        """
        ...

    def synchronize(self) -> None:
        """Wait until everything enqueued so far has been done."""
        ...


class Accelerator(Protocol):
    """A device that computes. One thread launches work; memory may be asked for by any."""

    @property
    def kind(self) -> str:
        """One of core.hardware.accelerator.KINDS, without `auto`."""
        ...

    @property
    def name(self) -> str:
        """Its name for people."""
        ...

    @property
    def identity(self) -> str:
        """What its speeds depend on besides this machine and the torch build: name, memory, driver."""
        ...

    @property
    def vendor(self) -> str:
        """amd, nvidia, intel, apple, cpu or emulated."""
        ...

    @property
    def device(self) -> torch.device:
        """Where torch finds its tensors."""
        ...

    @property
    def compute_dtype(self) -> torch.dtype:
        """What networks compute in."""
        ...

    @property
    def has_own_memory(self) -> bool:
        """Whether weights must cross a link to get there."""
        ...

    @property
    def unified(self) -> bool:
        """Whether device memory and host memory are the same bytes."""
        ...

    @property
    def attention(self) -> tuple[str, ...]:
        """The kernels there are for attention, best first: flash, efficient, math."""
        ...

    @property
    def copy_queue(self) -> Queue:
        """The queue of the copy engine."""
        ...

    @property
    def compute_queue(self) -> Queue:
        """The queue of kernels; with torch, the stream that eager operations go to."""
        ...

    def event(self) -> Event:
        """An event that nobody has recorded yet."""
        ...

    # -- memory -----------------------------------------------------------------------------------------------------

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory: (total, free now), as the driver tells every program."""
        ...

    @property
    def largest_allocation(self) -> int | None:
        """The most bytes that one allocation may have; None where only memory limits it."""
        ...

    def budget_bytes(self, held_bytes: int = 0, headroom_bytes: int | None = None) -> int:
        """Bytes that weights may use: free memory, and what we hold of it already, less the headroom."""
        ...

    def allocate(self, size: int, owner: str) -> torch.Tensor:
        """A device buffer: uint8 [size], at an address that divides by 256, with nothing sensible in it.

        Raises:
            torch.OutOfMemoryError: there is no room, or it is more than one allocation may have.
        """
        ...

    def place(self, tensor: torch.Tensor, owner: str) -> torch.Tensor:
        """A copy of a host tensor on the device, there when this returns. Raises as `allocate` does."""
        ...

    def free(self, tensor: torch.Tensor) -> None:
        """Give back what `allocate` or `place` returned. Kernels launched before may still read it; copies may not."""
        ...

    def held_bytes(self) -> Mapping[str, int]:
        """Bytes that `allocate` and `place` gave out and that were not freed, by owner."""
        ...

    def pinned(self, size: int) -> torch.Tensor:
        """A host buffer, uint8 [size], that the copy engine reads by itself. A power of two wastes nothing."""
        ...

    def discard(self, buffer: torch.Tensor) -> None:
        """Say that nobody will read a buffer again before it is written. Emulated cards poison it."""
        ...

    def absent(self, host: torch.Tensor) -> torch.Tensor:
        """What a parameter is while its bytes are only in host memory: of the same shape, and of no use to a kernel."""
        ...

    def computing(self) -> AbstractContextManager[object]:
        """What networks compute is computed inside of it; only a device that is not there needs to know."""
        ...

    def catch_up(self) -> None:
        """Where eager kernels run in the launching thread (emulated cards), wait for the compute queue; else nothing.

        To be called between `compute_queue.wait` and eager kernels that need what was waited for.
        """
        ...

    @property
    def context_bytes(self) -> int | None:
        """What the driver itself takes of the device for this process, beside all that is allocated; None: unknown."""
        ...

    def peak_bytes(self) -> int:
        """The most that was taken from the driver for us since `reset_peak`; 0 where nobody counts.

        The driver's own context is not among it: no torch call tells of it.
        """
        ...

    def reset_peak(self) -> None:
        """Start counting the peak anew, from what is held now."""
        ...

    def limit(self, size: int) -> None:
        """Let the allocator take at most `size` bytes from the driver; what it keeps for reuse goes back before."""
        ...

    def release_cached(self) -> None:
        """Give memory that is kept for reuse back to the driver."""
        ...

    def synchronize(self) -> None:
        """Wait until all queues are empty, so that a clock read afterwards tells the truth."""
        ...
