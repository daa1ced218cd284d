"""The seconds of a pass for one contender on one network, budget after budget: what a process of the benchmark does."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import statistics
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    output's bits (SHA-256); `repeatable`: the first pass and the last gave the same. `retries` counts how often, in the
    timed passes, torch's allocator had to give cached memory back before it found room. `link_rate` in bytes/s, from
    pinned memory.
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
    seconds: float = 10.0,
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
    accelerator.release_cached()
    state = _State(workload, who, accelerator)
    rows: list[Row] = []
    for budget in budgets:
        if rows and state.settled and not rows[-1].retries:  # more memory changes nothing any more
            setting = f"{rows[-1].setting}; as under the budget before".removeprefix("; ")
            rows.append(msgspec.structs.replace(rows[-1], budget_bytes=budget, setting=setting))
        else:
            _cap(accelerator, budget)
            found = _best(state, who, 0 if budget is None else budget - activation_bytes, passes, seconds)
            key = {"model": model, "contender": contender, "budget_bytes": budget}
            rows.append(msgspec.convert({**key, "link_rate": rate, **found}, Row))
        told(rows[-1])
    state.stop()
    _cap(accelerator, None)
    return rows


def _best(state: _State, who: Contender, room: int, passes: int, seconds: float) -> dict[str, Any]:
    """The fields of a row: the first attempt that has memory enough, or the fastest of those that had hardly enough."""
    best: dict[str, Any] = {"error": "it was not tried"}
    for attempt in range(who.attempts):
        try:
            found = state.run(room, attempt, passes, seconds)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold activations
            lines = str(error).strip().splitlines() or [""]
            found = {"error": f"{type(error).__name__}: {lines[0][:300]}"}
            again = isinstance(error, torch.OutOfMemoryError)
        else:
            again = bool(found["retries"])
        if who.by_budget or "error" in found:
            state.stop()
        if "error" in best or ("error" not in found and found["pass_seconds"] < best["pass_seconds"]):
            best = found
        if not again:
            break
    return best


class _State:
    """A network and the contender that runs it."""

    def __init__(self, workload: Workload, contender: Contender, accelerator: Accelerator) -> None:
        self._workload, self._contender, self._accelerator = workload, contender, accelerator
        self._module: nn.Module | None = None
        self._running: Running | None = None
        self._attempt = 0
        self._setup = 0.0

    @property
    def settled(self) -> bool:
        """Whether it runs as it would run under any larger budget too."""
        return self._running is not None and self._attempt == 0 and not self._contender.by_budget

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
            with contextlib.nullcontext() if self._contender.ours else contextlib.suppress(Exception):
                running.stop()
        if not self._contender.restores:
            self._module = None
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
    before = _allocated(accelerator)
    first = _digest(one_pass(module, given))
    begin = time.perf_counter()
    for _ in range(_WARM - 1):
        one_pass(module, given)
    accelerator.synchronize()
    each = (time.perf_counter() - begin) / (_WARM - 1)
    result, retries = torch.empty(0), _retries(accelerator)
    marks = [queue.record()]
    for _ in range(max(2, min(passes, int(seconds / each)))):
        result = one_pass(module, given)
        marks.append(queue.record())
    accelerator.synchronize()
    taken = [later.seconds_since(earlier) for earlier, later in itertools.pairwise(marks)]
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
