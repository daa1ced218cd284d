"""Working memory of encoders and decoders, which go through a tensor in chunks: allocated once, used for every chunk.

Memory that the operating system hands out anew costs a page fault for every 4 KiB, which is several times the
arithmetic that one pass does on it. So on a CPU a thread keeps its buffers from call to call: 2 to 8 MB after encodes,
for each of at most four threads that torch computes with, and less than 1 MB after a decode (up to 7 without numba). On
a device, where each byte counts and torch's allocator reuses memory by itself, they live as long as the call.
"""

from __future__ import annotations

import threading

import torch

# Elements in a chunk for one thread of a CPU: with fewer the cost of starting an operation shows (measured; encoders
# have four times the arrays of decoders). On a device a chunk must be large against the start of a kernel and small
# against the tensor.
_ENCODED = 1 << 18
_DECODED = 1 << 20
_ON_DEVICE = 1 << 23
_THREADS = 4


class Scratch:
    """Buffers by name on one device. What a buffer holds is undefined until it is written."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    @property
    def encoded(self) -> int:
        """How many elements to encode at once."""
        return _ENCODED * min(torch.get_num_threads(), _THREADS) if self.device.type == "cpu" else _ON_DEVICE

    @property
    def decoded(self) -> int:
        """How many elements to decode at once."""
        return max(_DECODED, self.encoded) if self.device.type == "cpu" else _ON_DEVICE

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        """The contiguous buffer of that name; the same memory again for the next chunk, if it is no larger."""
        size = 1
        for extent in shape:
            size *= extent
        kept = self._buffers.get((name, dtype))
        if kept is None or kept.numel() < size:
            with torch.inference_mode(False):  # else it could not be written to outside of that mode later
                kept = self._buffers[name, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return kept[:size].view(shape)

    def floats(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The same in float32."""
        return self.take(name, shape, torch.float32)


_kept = threading.local()


def scratch_on(device: torch.device) -> Scratch:
    """This thread's buffers on a CPU, new ones elsewhere."""
    if device.type != "cpu":
        return Scratch(device)
    if not hasattr(_kept, "scratch"):
        _kept.scratch = Scratch(device)
    scratch: Scratch = _kept.scratch
    return scratch
