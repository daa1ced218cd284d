"""The seconds of a pass for one contender on one network, budget after budget: what a process of the benchmark does."""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

import msgspec
import torch
from torch import nn

from core.hardware.calibrate_link import copy_rate
from core.hardware.interface import Accelerator
from core.hardware.machine import memory
from core.sizes import in_words
from tests.gpu.contenders import CONTENDERS, Contender, Running
from tests.gpu.networks import Workload, arguments, make, one_pass, weight_bytes

_WARM = 2  # passes that are not timed: kernels are chosen, memory is pinned, and prefetching has come round


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one contender did under one budget; of a failure, the error alone.

    `budget_bytes` is None where there was no limit. `pass_seconds` is the median of `seconds`. `digest` is of the
    output's bits (SHA-256); `repeatable`: the first pass and the last gave the same. `retries` counts how often torch's
    allocator had to give cached memory back before it found room. `link_rate` in bytes/s, from pinned memory.
    """

    model: str
    contender: str
    budget_bytes: int | None
    error: str = ""
    setting: str = ""
    pass_seconds: float | None = None
    seconds: list[float] = []
    setup_seconds: float | None = None
    streamed_bytes: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    peak_bytes: int | None = None
    retries: int = 0
    link_rate: float | None = None
    digest: str = ""
    finite: bool = False
    repeatable: bool = False


def measure(
    model: str,
    workload: Workload,
    contender: str,
    budgets: Sequence[int | None],
    accelerator: Accelerator,
    *,
    activation_bytes: int = 0,
    passes: int = 6,
    seconds: float = 20.0,
    told: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Run passes under each budget; never fails because a contender does.

    Args:
        model: the workload's name.
        budgets: bytes that torch's allocator may take, weights and activations together; None: no limit.
        activation_bytes: of the budget, what one pass needs besides weights.
        passes: how many are timed, fewer where they would take longer than `seconds` together, but two at least.
        told: hears of each row when it is there.
    """
    who = CONTENDERS[contender]
    rate = copy_rate(accelerator, pinned=True).rate if accelerator.has_own_memory else None
    state = _State(workload, who, accelerator)
    rows = []
    for budget in budgets:
        _cap(accelerator, budget)
        room = 0 if budget is None else budget - activation_bytes
        found = {"error": "it was not tried"}
        for attempt in range(who.attempts):
            try:
                found = state.run(room, attempt, passes, seconds)
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"}
                traceback.clear_frames(error.__traceback__)  # they hold activations
                again = isinstance(error, torch.OutOfMemoryError)
            else:
                again = bool(found["retries"])
            if who.by_budget or "pass_seconds" not in found:
                state.stop()
            if not again:
                break
        rows.append(
            msgspec.convert(
                {"model": model, "contender": contender, "budget_bytes": budget, "link_rate": rate, **found}, Row
            )
        )
        told(rows[-1])
    state.stop()
    _cap(accelerator, None)
    return rows


class _State:
    """A network and the contender that runs it."""

    def __init__(self, workload: Workload, contender: Contender, accelerator: Accelerator) -> None:
        self._workload, self._contender, self._accelerator = workload, contender, accelerator
        self._module: nn.Module | None = None
        self._running: Running | None = None
        self._attempt = 0
        self._setup = 0.0

    def run(self, room: int, attempt: int, passes: int, seconds: float) -> dict[str, object]:
        """Start the contender if it is not running as this attempt would, and time it."""
        if self._running is not None and self._attempt != attempt:
            self.stop()
        if self._module is None:
            self._module = self._made()
        size = weight_bytes(self._module)
        if self._running is None:
            begin = time.perf_counter()
            self._running = self._contender.start(self._module, self._accelerator, room, attempt)
            self._attempt, self._setup = attempt, time.perf_counter() - begin
        given = arguments(self._workload, self._module, self._accelerator.device)
        found = _timed(self._module, given, self._accelerator, passes, seconds)
        return {
            **found,
            "setting": self._running.setting,
            "setup_seconds": self._setup,
            "streamed_bytes": self._running.streamed_bytes,
            "weight_bytes": size,
        }

    def stop(self) -> None:
        """Give everything back; the network too, unless it is as it was."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()
        if running is None or not self._contender.restores:
            self._module = None  # one that failed to start may be half changed
        gc.collect()
        self._accelerator.release_cached()

    def _made(self) -> nn.Module:
        module = make(self._workload)
        needed = int((self._contender.host_copies - 1) * weight_bytes(module))
        free = memory()[1]
        if needed > free:
            raise MemoryError(f"{in_words(needed)} more of host memory are needed, {in_words(free)} are free")
        return module


def _timed(
    module: nn.Module, given: Mapping[str, object], accelerator: Accelerator, passes: int, seconds: float
) -> dict[str, object]:
    queue = accelerator.compute_queue
    accelerator.reset_peak()
    before, retries = _allocated(accelerator), _retries(accelerator)
    first = _digest(one_pass(module, given))
    begin = time.perf_counter()
    for _ in range(_WARM - 1):
        one_pass(module, given)
    accelerator.synchronize()
    each = (time.perf_counter() - begin) / (_WARM - 1)
    result = torch.empty(0)
    marks = [queue.record()]
    for _ in range(max(2, min(passes, int(seconds / each)))):
        result = one_pass(module, given)
        marks.append(queue.record())
    accelerator.synchronize()
    taken = [later.seconds_since(earlier) for earlier, later in zip(marks, marks[1:], strict=False)]
    return {
        "pass_seconds": statistics.median(taken),
        "seconds": taken,
        "activation_bytes": _allocated(accelerator, peak=True) - before,
        "peak_bytes": accelerator.peak_bytes(),
        "retries": _retries(accelerator) - retries,
        "digest": first,
        "finite": bool(result.isfinite().all()),
        "repeatable": _digest(result) == first,
    }


def _digest(result: torch.Tensor) -> str:
    return hashlib.sha256(result.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def _cap(accelerator: Accelerator, budget: int | None) -> None:
    """Let torch's allocator take no more than this from the driver. Emulated cards have their own memory."""
    if accelerator.kind in ("cuda", "xpu"):
        share = 1.0 if budget is None else min(1.0, budget / accelerator.memory()[0])
        getattr(torch, accelerator.kind).set_per_process_memory_fraction(share)


def _allocated(accelerator: Accelerator, *, peak: bool = False) -> int:
    if accelerator.kind not in ("cuda", "xpu"):
        return 0
    backend = getattr(torch, accelerator.kind)
    return int(backend.max_memory_allocated() if peak else backend.memory_allocated())


def _retries(accelerator: Accelerator) -> int:
    if accelerator.kind not in ("cuda", "xpu"):
        return 0
    return int(getattr(torch, accelerator.kind).memory_stats().get("num_alloc_retries", 0))
