"""The device that computes, through torch: which one, how much memory it has, and in which precision it computes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch

from core.hardware.accelerator_queues import HostEvent, HostQueue, StreamEvent, StreamQueue
from core.hardware.buffers import Holdings, aligned_bytes
from core.hardware.interface import Accelerator, Event, Queue
from core.hardware.machine import memory
from core.messages import UserError

KINDS = ("auto", "cpu", "cuda", "xpu", "mps", "emulated")
# What is left to the screen and to other programs. On AMD under Linux an overflow of VRAM can take the desktop down;
# a report of a 16 GB card became recoverable with a reserve of 4 GB.
_HEADROOM_BYTES = 1_500_000_000
_HEADROOM_ROCM_BYTES = 2_500_000_000
_HEADROOM_HOST_BYTES = 1_000_000_000
_EMULATED_CARD = "rx-7800-xt"  # the reference card, where nobody names another


class TorchAccelerator:
    """CUDA, ROCm (which torch calls cuda), XPU, MPS or the CPU."""

    def __init__(self, kind: str, name: str) -> None:
        """`kind` is torch's name of the device type."""
        self.kind = kind
        self.name = name
        self._holdings = Holdings()

    @property
    def identity(self) -> str:
        """Name, memory, and the version of driver or runtime as far as torch tells."""
        runtime = torch.version.hip or torch.version.cuda or ""
        ask_driver = getattr(torch._C, "_cuda_getDriverVersion", None)  # builds for CUDA have it
        driver = ask_driver() if self.kind == "cuda" and ask_driver is not None else ""
        return f"{self.kind}/{self.name}/{self.memory()[0]}/{runtime}/{driver}"

    @property
    def vendor(self) -> str:
        """amd, nvidia, intel, apple or cpu."""
        if self.kind == "cuda":
            return "amd" if torch.version.hip else "nvidia"
        return {"xpu": "intel", "mps": "apple", "cpu": "cpu"}[self.kind]

    @property
    def device(self) -> torch.device:
        """The torch device."""
        return torch.device(self.kind)

    @property
    def has_own_memory(self) -> bool:
        """Whether weights must cross a link to get there; the CPU and MPS share the host's memory."""
        return self.kind in ("cuda", "xpu")

    @property
    def unified(self) -> bool:
        """Whether device and host memory are the same bytes; so they are on APUs too, though torch copies there."""
        if self.kind == "cuda":
            return bool(getattr(torch.cuda.get_device_properties(), "is_integrated", False))
        return not self.has_own_memory

    @property
    def compute_dtype(self) -> torch.dtype:
        """What networks compute in: f32 on the CPU, where fp16 convolutions are 180 times slower; else bf16 or fp16."""
        if self.kind == "cpu":
            return torch.float32
        if self.kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.float16
        return torch.bfloat16

    @property
    def attention(self) -> tuple[str, ...]:
        """Attention kernels, best first. Torch tells of flash only; which one runs depends on shapes and dtypes too."""
        if self.kind == "mps":
            return ("math",)
        if self.kind == "cuda" and not torch.backends.cuda.is_flash_attention_available():
            return ("efficient", "math")
        return ("flash", "math") if self.kind == "cpu" else ("flash", "efficient", "math")

    # -- queues -----------------------------------------------------------------------------------------------------

    @property
    def _backend(self) -> Any:
        return getattr(torch, self.kind)

    @cached_property
    def copy_queue(self) -> Queue:
        """A stream of its own, so that copies run beside kernels."""
        if not self.has_own_memory:
            return self.compute_queue
        return StreamQueue(self._backend, self._backend.Stream())

    @cached_property
    def compute_queue(self) -> Queue:
        """The default stream, which eager operations go to."""
        if not self.has_own_memory:
            return HostQueue(self.synchronize)
        return StreamQueue(self._backend, self._backend.current_stream())

    def event(self) -> Event:
        """An event that nobody has recorded yet."""
        return StreamEvent(self._backend) if self.has_own_memory else HostEvent()

    def synchronize(self) -> None:
        """Wait until everything launched has run, so that a clock read afterwards tells the truth."""
        if self.kind != "cpu":
            self._backend.synchronize()

    # -- memory -----------------------------------------------------------------------------------------------------

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory: (total, free now)."""
        if self.has_own_memory:
            free, total = self._backend.mem_get_info()
            return total, free
        return memory()

    @property
    def largest_allocation(self) -> int | None:
        """Torch does not tell."""
        return None

    def budget_bytes(self, held_bytes: int = 0, headroom_bytes: int | None = None) -> int:
        """Bytes that weights may use: free memory, and what we hold of it already, less the headroom."""
        _, free = self.memory()
        if headroom_bytes is None:
            headroom_bytes = _HEADROOM_HOST_BYTES
            if self.has_own_memory:
                headroom_bytes = _HEADROOM_ROCM_BYTES if torch.version.hip else _HEADROOM_BYTES
        return max(0, free + self._cached_bytes() + held_bytes - headroom_bytes)

    def _cached_bytes(self) -> int:
        """Bytes that torch took from the driver and keeps for reuse: not free to others, but to us."""
        if not self.has_own_memory:
            return 0
        return int(self._backend.memory_reserved() - self._backend.memory_allocated())

    def allocate(self, size: int, owner: str) -> torch.Tensor:
        """A device buffer: uint8 [size]. Raises torch.OutOfMemoryError."""
        if self.kind == "cpu":
            return self._holdings.add(aligned_bytes(size), owner)
        buffer = torch.empty(size, dtype=torch.uint8, device=self.device)
        if isinstance(self.copy_queue, StreamQueue):
            # kernels launched earlier may still read what was freed at this address; a copy must come behind them
            self.copy_queue.wait(self.compute_queue.record())
        return self._holdings.add(buffer, owner)

    def place(self, tensor: torch.Tensor, owner: str) -> torch.Tensor:
        """A host tensor on the device; where memory is shared and nothing has to move, the tensor itself."""
        return self._holdings.add(tensor.to(self.device), owner)

    def free(self, tensor: torch.Tensor) -> None:
        """Note that the owner gave it up; its memory is free when the last reference to it is gone."""
        self._holdings.remove(tensor)

    def held_bytes(self) -> Mapping[str, int]:
        """Bytes given out and not freed, by owner."""
        return self._holdings.by_owner()

    def pinned(self, size: int) -> torch.Tensor:
        """A host buffer, uint8 [size], pinned where there is a link."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=self.has_own_memory)

    def discard(self, buffer: torch.Tensor) -> None:
        """Nothing to do."""

    def absent(self, host: torch.Tensor) -> torch.Tensor:
        """The host's tensor: a kernel that meets it says itself that it is on the wrong device."""
        return host

    def computing(self) -> AbstractContextManager[object]:
        """Nothing to do: kernels count and take their time by themselves."""
        return nullcontext()

    def catch_up(self) -> None:
        """Nothing to do: eager kernels go to the compute queue's stream."""

    @property
    def context_bytes(self) -> int | None:
        """Unknown: no torch call tells."""
        return None

    def peak_bytes(self) -> int:
        """The most that torch's allocator took from the driver since `reset_peak`; 0 where torch does not count.

        The driver's own context (some hundred megabytes) is not among it: no torch call tells of it.
        """
        return int(self._backend.max_memory_reserved()) if self.has_own_memory else 0

    def reset_peak(self) -> None:
        """Start counting the peak anew."""
        if self.has_own_memory:
            self._backend.reset_peak_memory_stats()

    def limit(self, size: int) -> None:
        """Tell torch's allocator, as a share of all memory, which is how it is told."""
        if self.has_own_memory and hasattr(self._backend, "set_per_process_memory_fraction"):
            self._backend.set_per_process_memory_fraction(min(1.0, size / self.memory()[0]))

    def release_cached(self) -> None:
        """Give memory that torch keeps for reuse back to the driver."""
        if self.has_own_memory:
            self._backend.empty_cache()


def choose(
    kind: str = "auto",
    *,
    gpu: str | None = None,
    vram_bytes: int | None = None,
    link_rate: float | None = None,
    seed: int = 0,
) -> Accelerator:
    """The accelerator of that kind; `auto` takes the first that torch can use.

    Args:
        kind: one of KINDS.
        gpu: the card to emulate: a name in resources/hardware or a profile's file.
        vram_bytes: its memory, where it should be other than the card's.
        link_rate: bytes per second from pinned memory, where it should be other than the card's.
        seed: of an emulated card's jitter and of how far it is from its data sheet.

    Raises:
        UserError: the kind or the card is unknown, or the device is not usable with this torch build.
    """
    if kind not in KINDS:
        raise UserError(f"There is no accelerator called {kind}; choose one of {', '.join(KINDS)}.")
    if kind == "emulated":
        from core.hardware.emulated import emulated
        from core.hardware.profile import load

        return emulated(load(gpu or _EMULATED_CARD), vram_bytes, link_rate, seed)
    if vram_bytes is not None or link_rate is not None or gpu is not None:
        raise UserError(f"Another card, memory or link can only be emulated: use --accelerator emulated, not {kind}.")
    available = {
        "cuda": torch.cuda.is_available(),
        "xpu": torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if kind == "auto":
        kind = next(name for name, usable in available.items() if usable)
    elif not available[kind]:
        raise UserError(
            f"This torch build ({torch.__version__}) finds no usable {kind} device; run `residency doctor`, "
            "or use --accelerator cpu."
        )
    return TorchAccelerator(kind, _name(kind))


def _name(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    if kind == "xpu":
        return str(torch.xpu.get_device_name())
    return {"mps": "Apple GPU", "cpu": "CPU"}[kind]
