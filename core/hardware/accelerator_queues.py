"""Queues and events through torch: streams where there are streams, and a queue that does everything at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from core.hardware.interface import Event, EventNotRecordedError, Work


class StreamEvent:
    """A CUDA, ROCm or XPU event that knows whether it was recorded."""

    def __init__(self, backend: Any) -> None:
        """`backend` is torch.cuda or torch.xpu."""
        self.raw = backend.Event(enable_timing=True)
        self.recorded = False

    def query(self) -> bool:
        """Whether the queue has come past it."""
        return bool(self._checked().query())

    def synchronize(self) -> None:
        """Wait until the queue has come past it."""
        self._checked().synchronize()

    def seconds_since(self, earlier: Event) -> float:
        """Seconds between two events, by the device's clock (resolution about half a microsecond)."""
        assert isinstance(earlier, StreamEvent)
        return float(earlier._checked().elapsed_time(self._checked())) / 1000

    def _checked(self) -> Any:
        if not self.recorded:
            raise EventNotRecordedError
        return self.raw


class StreamQueue:
    """A stream of a CUDA, ROCm or XPU card."""

    def __init__(self, backend: Any, stream: Any) -> None:
        """`backend` is torch.cuda or torch.xpu."""
        self._backend = backend
        self.stream = stream

    def copy(self, target: torch.Tensor, source: torch.Tensor, *, needed: bool = True) -> None:
        """Enqueue a copy; from pageable memory the driver makes the caller wait."""
        with self._backend.stream(self.stream):
            target.copy_(source, non_blocking=True)
        for tensor in (target, source):
            if tensor.device.type != "cpu":
                tensor.record_stream(self.stream)  # else its memory could be given out again under the copy

    def launch(self, kernel: Callable[[], object], work: Work | None = None, *, needed: bool = True) -> None:
        """Launch what `kernel` does."""
        with self._backend.stream(self.stream):
            kernel()

    @contextmanager
    def running(self, work: Work | None = None) -> Iterator[None]:
        """Launch what the `with` does."""
        with self._backend.stream(self.stream):
            yield

    def record(self, event: Event | None = None) -> Event:
        """Put a mark behind what was enqueued so far."""
        event = event or StreamEvent(self._backend)
        assert isinstance(event, StreamEvent)
        event.raw.record(self.stream)
        event.recorded = True
        return event

    def wait(self, event: Event) -> None:
        """Let what is enqueued from now on wait for the event."""
        assert isinstance(event, StreamEvent)
        self.stream.wait_event(event._checked())

    def synchronize(self) -> None:
        """Wait until everything enqueued so far has been done."""
        self.stream.synchronize()


class HostEvent:
    """A moment on the host's clock."""

    def __init__(self) -> None:
        self.at: float | None = None

    @property
    def recorded(self) -> bool:
        """Whether it was recorded."""
        return self.at is not None

    def query(self) -> bool:
        """True: what comes before it was done when it was recorded."""
        self._checked()
        return True

    def synchronize(self) -> None:
        """Return at once."""
        self._checked()

    def seconds_since(self, earlier: Event) -> float:
        """Seconds between two events."""
        assert isinstance(earlier, HostEvent)
        return self._checked() - earlier._checked()

    def _checked(self) -> float:
        if self.at is None:
            raise EventNotRecordedError
        return self.at


class HostQueue:
    """The queue of a device that shares the host's memory: everything is done when the call returns.

    Apple's GPUs work behind the host's back, so a mark waits for them first; nothing needs marks to be cheap there.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        """`synchronize` waits for the device."""
        self._synchronize = synchronize

    def copy(self, target: torch.Tensor, source: torch.Tensor, *, needed: bool = True) -> None:
        """Copy."""
        target.copy_(source)

    def launch(self, kernel: Callable[[], object], work: Work | None = None, *, needed: bool = True) -> None:
        """Run the kernel."""
        kernel()

    @contextmanager
    def running(self, work: Work | None = None) -> Iterator[None]:
        """Run what the `with` does."""
        yield

    def record(self, event: Event | None = None) -> Event:
        """Note the time at which everything before is done."""
        event = event or HostEvent()
        assert isinstance(event, HostEvent)
        self._synchronize()
        event.at = time.perf_counter()
        return event

    def wait(self, event: Event) -> None:
        """Nothing to wait for, but an event that was never recorded is as wrong here as anywhere."""
        assert isinstance(event, HostEvent)
        event.synchronize()

    def synchronize(self) -> None:
        """Wait for the device."""
        self._synchronize()
