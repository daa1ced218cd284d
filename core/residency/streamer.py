"""Brings the slabs of one network to the device while it runs: the missing resident ones once, the streamed ones in
every pass.

A copier thread stages slabs in pinned memory and enqueues one copy for each, in the order in which blocks run. A
streamed slab goes into the slot that was released first; behind the last block of a pass comes the first of the next.
The thread that launches kernels waits for no copy: it waits until the copy has been enqueued, and lets the compute
queue wait for the copy's event (waiting for an event that nobody recorded yet would be no wait at all).
"""

from __future__ import annotations

import threading
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from core.hardware.interface import Accelerator, Event
from core.residency.slabs import Slab
from core.residency.staging import Staging
from core.residency.store import HostStore, Stopped

_LOOK_SECONDS = 0.02  # how often whoever waits for a copy looks whether to go on waiting
REST = -1  # the number of the slab that lies outside of blocks


class _Free(NamedTuple):
    slot: int
    event: Event | None  # behind the last kernel that may read it


class _Arrival(NamedTuple):
    block: int
    event: Event
    slot: int | None


class Streamer:
    """The copies of one network during one phase. Everything but the copier is called by the launching thread."""

    def __init__(
        self,
        accelerator: Accelerator,
        store: HostStore,
        staging: Staging,
        slabs: Mapping[int, Slab],
        *,
        missing: Mapping[int, torch.Tensor],
        streamed: Sequence[int],
        slots: Sequence[torch.Tensor],
        passes: int | None = None,
        after: threading.Event | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Start copying.

        Args:
            slabs: by the number of the block in execution order; REST is what lies outside.
            missing: the device buffers of resident slabs that have not arrived yet.
            streamed: the numbers of the streamed blocks, rising.
            slots: device buffers, each at least as large as the largest streamed slab.
            passes: how often the network will run; nothing is copied for a pass that does not come. None: no end.
            after: copy nothing before this is set, or somebody waits.
            check: raises when the thread that launches kernels shall wait no longer.
        """
        if streamed and not slots:
            raise ValueError("streamed blocks need slots")
        self._accelerator, self._store, self._staging = accelerator, store, staging
        self._slabs, self._missing, self._streamed, self._slots = slabs, missing, list(streamed), slots
        self._wanted = (
            None if passes is None else passes * len(self._streamed)
        )  # copies into slots, all passes together
        self._changed = threading.Condition()
        # kernels that were launched before may still read what was in the slots
        last = accelerator.compute_queue.record() if slots else None
        self._free = deque(_Free(slot, last) for slot in range(len(slots)))
        self._arrivals: deque[_Arrival] = deque()
        self._resident: dict[int, Event] = {}  # arrived, but no kernel was told to wait for it yet
        self._awaited = set(missing)
        self._stopping = False
        self._urgent = False
        self._error: BaseException | None = None
        self._position = 0
        self._inside: _Arrival | None = None
        self.copied_bytes = 0
        self.loaded = threading.Event()
        self._after, self._check = after, check
        self._order, self._told = sorted({*missing, *self._streamed}), 0
        self._resident_first = False
        self._starving = False
        self._thread = threading.Thread(target=self._copy_all, name="copier", daemon=True)
        self._thread.start()

    # -- the launching thread ---------------------------------------------------------------------------------------

    def need(self, block: int) -> None:
        """Let the kernels that follow wait for a resident slab. Raises what the copier failed with."""
        if block not in self._awaited:
            return
        with self._changed:
            self._wait(lambda: block in self._resident or self._starving)
            stuck = block not in self._resident
        if stuck:  # the copier waits for a slot that no block before this one will give back
            self._begin_again(self._streamed[self._position % len(self._streamed)], resident_first=True)
        with self._changed:
            self._wait(lambda: block in self._resident)
            event = self._resident.pop(block)
        self._awaited.discard(block)
        self._accelerator.compute_queue.wait(event)
        self._accelerator.catch_up()

    def enter(self, block: int) -> torch.Tensor:
        """The slot that holds a streamed block; the kernels that follow wait for its copy.

        Raises:
            ModelFileError: the copier could not read it; so do all calls that follow.
        """
        if self._streamed[self._position % len(self._streamed)] != block:
            self._begin_again(block)
        with self._changed:
            if self._wanted is not None and self._position >= self._wanted:
                self._wanted += len(self._streamed)  # a pass more than was said
                self._changed.notify_all()
            self._wait(lambda: self._arrivals)
            self._inside = arrival = self._arrivals.popleft()
        assert arrival.block == block
        assert arrival.slot is not None
        self._accelerator.compute_queue.wait(arrival.event)
        self._accelerator.catch_up()
        return self._slots[arrival.slot]

    def leave(self) -> None:
        """The kernels of the block that was entered have been launched; its slot is free behind them."""
        arrival, self._inside = self._inside, None
        if arrival is None or arrival.slot is None:
            return
        event = self._accelerator.compute_queue.record()
        with self._changed:
            self._position += 1
            self._free.append(_Free(arrival.slot, event))
            self._changed.notify_all()

    def stop(self) -> None:
        """Copy nothing more, and return when no copy is in flight."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._accelerator.copy_queue.synchronize()

    def forget(self) -> None:
        """Let go of all device memory, also of what an error's traceback holds; nothing may be asked for afterwards."""
        self._error, self._missing, self._slots = None, {}, ()

    @property
    def arrived(self) -> set[int]:
        """The resident slabs that this streamer has brought; to be asked after `stop`."""
        return set(self._missing) - self._awaited | set(self._resident)

    def _wait(self, ready: object) -> None:
        """Wait until the copier has come so far. With the lock held."""
        assert callable(ready)
        self._urgent = True
        self._changed.notify_all()
        while not ready():
            if self._error is not None:
                raise self._error
            if not self._thread.is_alive():
                raise RuntimeError("the copier has ended")
            self._check()
            self._changed.wait(_LOOK_SECONDS)

    def _begin_again(self, block: int, *, resident_first: bool = False) -> None:
        """Blocks ran in another order than they are listed in: give up what was copied ahead, go on from this one."""
        self.stop()
        with self._changed:
            self._arrivals.clear()
            last = self._accelerator.compute_queue.record()
            self._free = deque(_Free(slot, last) for slot in range(len(self._slots)))
            skipped = (self._streamed.index(block) - self._position) % len(self._streamed)
            self._position += skipped
            if self._wanted is not None:
                self._wanted = max(self._wanted, self._position)
            self._resident_first = resident_first
            self._stopping = False
        self._thread = threading.Thread(target=self._copy_all, name="copier", daemon=True)
        self._thread.start()

    # -- the copier -------------------------------------------------------------------------------------------------

    def _copy_all(self) -> None:
        try:
            while self._after is not None and not (self._after.wait(0.02) or self._urgent or self._stopping):
                pass
            for block, into_slot in self._tasks():
                if self._stopping or not self._copy(block, into_slot):
                    return
        except Stopped:
            pass
        except BaseException as error:  # whoever waits for the block is told
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self.loaded.set()

    def _tasks(self) -> Iterator[tuple[int, bool]]:
        """(block, whether it goes into a slot), in the order of copying."""
        position = self._position
        turn = position % len(self._streamed) if self._streamed else 0
        ahead = set(self._streamed[turn:])
        once = {block for block in self._missing if block in self._awaited and block not in self._resident}
        if self._resident_first:
            yield from ((block, False) for block in sorted(once))
            once = set()
        for block in sorted(once | ahead):
            yield block, block in ahead
        self.loaded.set()
        position += len(ahead)
        while self._streamed:
            yield self._streamed[position % len(self._streamed)], True
            position += 1

    def _copy(self, block: int, into_slot: bool) -> bool:
        """Stage a slab and enqueue its copy; False when there is nothing more to do."""
        with self._changed:
            while into_slot and not self._stopping and self._wanted is not None and self._copies >= self._wanted:
                self._changed.wait()
            if self._stopping:
                return False
        slab = self._slabs[block]
        self._read_ahead(block)
        # before there is a slot: reading goes on meanwhile
        staged = self._staging.stage(self._store, slab, 0, self._is_stopping)
        slot = None
        queue = self._accelerator.copy_queue
        if into_slot:
            with self._changed:
                self._starving = not self._free
                self._changed.notify_all()
                while not self._free and not self._stopping:
                    self._changed.wait()
                self._starving = False
                if self._stopping:
                    return False
                slot, event = self._free.popleft()
            if event is not None:
                queue.wait(event)
        target = self._missing[block] if slot is None else self._slots[slot]
        done = 0
        while True:  # once, unless a resident slab is larger than the staging buffers
            queue.copy(target[done : done + staged.numel()], staged)
            event = queue.record()
            self._staging.sent(event)
            done += staged.numel()
            if done == slab.size:
                break
            if self._stopping:
                return False
            staged = self._staging.stage(self._store, slab, done, self._is_stopping)
        with self._changed:
            self.copied_bytes += slab.size
            if slot is None:
                self._resident[block] = event
            else:
                self._arrivals.append(_Arrival(block, event, slot))
            self._changed.notify_all()
        return True

    def _read_ahead(self, block: int) -> None:
        """Let the OS read the next slab from the disk while this one is staged, the first time that it is needed."""
        behind = bisect(self._order, block)
        if behind < len(self._order) and self._told < behind:
            self._told = behind
            self._store.advise([self._slabs[self._order[behind]]], "WILLNEED")

    def _is_stopping(self) -> bool:
        return self._stopping

    @property
    def _copies(self) -> int:
        """Copies into slots so far, counted as positions. With the lock held."""
        return self._position + len(self._arrivals) + (self._inside is not None)
