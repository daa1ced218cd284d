"""What networks compute on an emulated card: real arithmetic whose results take device memory and modelled time.

Every operation's new storages are reserved from the card's allocator for as long as they live, so that activations
count and may run out of memory; every operation takes at least as long as the card's rates say. Only time that the
processor does not need itself is waited for, so figures are true where the modelled card is slower than the
processor.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.hardware.kernels import flops_of, launches, touched, traffic

OWNER = "activations"
# Waits are gathered: shorter sleeps take longer than they are asked to.
_GRAIN_SECONDS = 0.004
# The host may be so far ahead of the card, as launches are queued; what launching takes then hides behind kernels.
# Drivers let it be about a thousand launches ahead, at 8 microseconds and more each.
_LEAD_SECONDS = 0.008

Reserve = Callable[[int, str], Callable[[], None]]
"""Takes bytes of device memory for an owner and returns what gives them back. Raises torch.OutOfMemoryError."""


class Kernels(TorchDispatchMode):
    """While it is entered, this thread's operations run on the card.

    `seconds` says how long a number of floating-point operations and of bytes takes; `placed` tells storages (by
    address) that the card holds already, such as weights.
    """

    def __init__(
        self, reserve: Reserve, seconds: Callable[[float, float], float], placed: Callable[[int], bool]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reserve, self._seconds, self._placed = reserve, seconds, placed
        self._known: dict[int, weakref.ref[Any]] = {}
        # Storages may die at any moment, also while the allocator is at work: what they gave back is taken in later.
        self._gone: deque[Callable[[], None]] = deque()
        self._modelled = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Kernels:
        self._modelled, self._began = 0.0, time.monotonic()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Wait until the card is done with what was launched."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        time.sleep(max(0.0, self._modelled - (time.monotonic() - self._began)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.drain()
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._hold(leaf)
        if launches(func):
            size = sum(traffic(tensor) for tensor in touched(func, args, kwargs or {}, out))
            self._take(self._seconds(flops_of(func, args, kwargs or {}, out), float(size)))
        return out

    def drain(self) -> None:
        """Give back the memory of storages that died."""
        while self._gone:
            self._gone.popleft()()

    def _hold(self, tensor: torch.Tensor) -> None:
        """Count a result's storage until nobody has it any more."""
        if tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or not storage.nbytes() or self._placed(storage.data_ptr()):
            return
        release = self._reserve(storage.nbytes(), OWNER)

        def forget(_: object) -> None:
            self._known.pop(key, None)
            self._gone.append(release)

        self._known[key] = weakref.ref(storage, forget)

    def _take(self, seconds: float) -> None:
        """Let an operation take its time."""
        self._modelled += seconds
        ahead = self._modelled - (time.monotonic() - self._began)
        if ahead > _LEAD_SECONDS + _GRAIN_SECONDS:
            time.sleep(ahead - _LEAD_SECONDS)
        elif ahead < 0:  # the processor was slower than the card: that time is lost, not owed
            self._modelled -= ahead
