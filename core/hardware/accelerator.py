"""The device that computes, through torch: which one, how much memory it has, and in which precision it computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from core.hardware.machine import memory
from core.messages import UserError

KINDS = ("auto", "cpu", "cuda", "xpu", "mps")
# What is left to the screen and to other programs. On AMD under Linux an overflow of VRAM can take the desktop down;
# a report of a 16 GB card became recoverable with a reserve of 4 GB.
_HEADROOM_BYTES = 1_500_000_000
_HEADROOM_ROCM_BYTES = 2_500_000_000
_HEADROOM_HOST_BYTES = 1_000_000_000


@dataclass(frozen=True)
class TorchAccelerator:
    """CUDA, ROCm (which torch calls cuda), XPU, MPS or the CPU."""

    kind: str
    name: str

    @property
    def device(self) -> torch.device:
        """The torch device."""
        return torch.device(self.kind)

    @property
    def has_own_memory(self) -> bool:
        """Whether weights must cross a link to get there; the CPU and MPS share the host's memory."""
        return self.kind in ("cuda", "xpu")

    @property
    def compute_dtype(self) -> torch.dtype:
        """What networks compute in: f32 on the CPU, where fp16 convolutions are 180 times slower; else bf16 or fp16."""
        if self.kind == "cpu":
            return torch.float32
        if self.kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.float16
        return torch.bfloat16

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory: (total, free now)."""
        if self.kind == "cuda":
            free, total = torch.cuda.mem_get_info()
            return total, free
        if self.kind == "xpu":
            free, total = torch.xpu.mem_get_info()
            return total, free
        return memory()

    def budget_bytes(self, held_bytes: int = 0) -> int:
        """Bytes that weights may use: free memory, and what we hold of it already, less the headroom."""
        _, free = self.memory()
        if not self.has_own_memory:
            headroom = _HEADROOM_HOST_BYTES
        else:
            headroom = _HEADROOM_ROCM_BYTES if torch.version.hip else _HEADROOM_BYTES
        return max(0, free + self._cached_bytes() + held_bytes - headroom)

    def _cached_bytes(self) -> int:
        """Bytes that torch took from the driver and keeps for reuse: not free to others, but to us."""
        if self.kind == "cuda":
            return torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        if self.kind == "xpu":
            return torch.xpu.memory_reserved() - torch.xpu.memory_allocated()
        return 0

    def peak_bytes(self) -> int:
        """The most that torch held on the device since `reset_peak`; 0 where torch does not count."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated()
        if self.kind == "xpu":
            return torch.xpu.max_memory_allocated()
        return 0

    def reset_peak(self) -> None:
        """Start counting the peak anew."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif self.kind == "xpu":
            torch.xpu.reset_peak_memory_stats()

    def synchronize(self) -> None:
        """Wait until everything launched has run, so that a clock read afterwards tells the truth."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "xpu":
            torch.xpu.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()

    def release_cached(self) -> None:
        """Give memory that torch keeps for reuse back to the driver."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()
        elif self.kind == "xpu":
            torch.xpu.empty_cache()


def choose(kind: str = "auto") -> TorchAccelerator:
    """The accelerator of that kind; `auto` takes the first that torch can use.

    Raises:
        UserError: the kind is unknown or not usable with this torch build.
    """
    if kind not in KINDS:
        raise UserError(f"There is no accelerator called {kind}; choose one of {', '.join(KINDS)}.")
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
