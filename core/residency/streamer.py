"""Brings the slabs of one network to the device while it runs: the missing resident ones once, the streamed ones in
every pass, and those that are only passing through once.

A copier thread stages slabs in pinned memory and enqueues one copy for each, in the order in which they are needed. A
streamed slab goes into the slot that was released first; behind the last block of a pass comes the first of the next.
The thread that launches kernels waits for no copy: it waits until the copy has been enqueued, and lets the compute
queue wait for the copy's event (waiting for an event that nobody recorded yet would be no wait at all).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from core.hardware.interface import Accelerator, Event
from core.residency.slabs import Slab
from core.residency.staging import Staging
from core.residency.store import HostStore, Stopped

_LOOK_SECONDS = 0.02  # how often whoever waits for a copy looks whether to go on waiting
REST = -1  # the number of the slab that lies outside of blocks


class _Slot(NamedTuple):
    buffer: torch.Tensor
    event: Event | None  # behind the last kernel that may read it


class _Arrival(NamedTuple):
    number: int
    event: Event
    buffer: torch.Tensor


class _Task(NamedTuple):
    number: int
    into_slot: bool
    lap: int


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
        streamed: Collection[int],
        slots: Sequence[torch.Tensor],
        passing: Collection[int] = (),
        passing_slots: Sequence[torch.Tensor] = (),
        passes: int | None = None,
        after: threading.Event | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Start copying.

        Args:
            slabs: by their numbers, in the order in which they are needed in a pass; REST is what lies outside of
                blocks.
            missing: the device buffers of resident slabs that have not arrived yet.
            streamed: the numbers of the streamed blocks.
            slots: device buffers, each at least as large as the largest streamed slab.
            passing: the numbers of slabs that are needed once, in the first pass.
            passing_slots: device buffers, each at least as large as the largest of these.
            passes: how often the network will run; nothing is copied for a pass that does not come. None: no end.
            after: copy nothing before this is set, or somebody waits.
            check: raises when the thread that launches kernels shall wait no longer.
        """
        if (streamed and not slots) or (passing and not passing_slots):
            raise ValueError("streamed blocks need slots")
        self._accelerator, self._store, self._staging = accelerator, store, staging
        self._slabs, self._missing, self._passes = slabs, missing, passes
        self._streamed, self._passing = frozenset(streamed), frozenset(passing)
        wanted = {*missing, *streamed, *passing}
        self._order = [number for number in slabs if number in wanted]
        self._places = {number: place for place, number in enumerate(self._order)}
        self._passed: set[int] = set()  # of those that pass through once
        self._changed = threading.Condition()
        self._arrivals: deque[_Arrival] = deque()
        self._inside: dict[int, _Arrival] = {}
        self._slots, self._passing_slots = slots, passing_slots
        self._free: deque[_Slot] = deque()
        self._free_passing: deque[_Slot] = deque()
        self._free_all()
        self._resident: dict[int, Event] = {}  # arrived, but no kernel was told to wait for it yet
        self._awaited = set(missing)
        self._stopping = False
        self._urgent = False
        self._error: BaseException | None = None
        self._lap = self._place = 0  # of what is entered next
        self.copied_bytes = 0
        self.loaded = threading.Event()
        self._after, self._check = after, check
        self._told = 0
        self._resident_first = False
        self._starving = False
        self._thread = threading.Thread(target=self._copy_all, name="copier", daemon=True)
        self._thread.start()

    # -- the launching thread ---------------------------------------------------------------------------------------

    def need(self, number: int) -> None:
        """Let the kernels that follow wait for a resident slab. Raises what the copier failed with."""
        if number not in self._awaited:
            return
        with self._changed:
            self._wait(lambda: number in self._resident or self._starving)
            stuck = number not in self._resident
        if stuck:  # the copier waits for a slot that nothing before this slab will give back
            self._begin_again(self._lap, self._place, resident_first=True)
        with self._changed:
            self._wait(lambda: number in self._resident)
            event = self._resident.pop(number)
        self._awaited.discard(number)
        self._accelerator.compute_queue.wait(event)
        self._accelerator.catch_up()

    def enter(self, number: int) -> torch.Tensor:
        """The slot that holds a streamed or passing slab; the kernels that follow wait for its copy.

        Raises:
            ModelFileError: the copier could not read it; so do all calls that follow.
        """
        lap, place = next((lap, place) for lap, place in self._slotted(self._lap, self._place))
        if self._order[place] != number:
            place = self._places[number]
            lap = self._lap + (place < self._place)
            self._begin_again(lap, place)
        with self._changed:
            if self._passes is not None and lap >= self._passes:
                self._passes = lap + 1  # a pass more than was said
                self._changed.notify_all()
            self._wait(lambda: self._arrivals)
            arrival = self._arrivals.popleft()
            self._inside[number] = arrival
            self._lap, self._place = lap, place + 1
        assert arrival.number == number
        self._accelerator.compute_queue.wait(arrival.event)
        self._accelerator.catch_up()
        return arrival.buffer

    def leave(self, number: int) -> None:
        """The kernels of what was entered have been launched; its slot is free behind them."""
        arrival = self._inside.pop(number, None)
        if arrival is None:
            return
        event = self._accelerator.compute_queue.record()
        with self._changed:
            if number in self._passing:
                self._passed.add(number)
            pool = self._free_passing if number in self._passing else self._free
            pool.append(_Slot(arrival.buffer, event))
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
        self._error, self._missing, self._slots, self._passing_slots = None, {}, (), ()
        for each in (self._free, self._free_passing, self._arrivals, self._inside):
            each.clear()

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

    def _begin_again(self, lap: int, place: int, *, resident_first: bool = False) -> None:
        """Slabs are needed in another order than they are listed in: give up what was copied ahead, go on from here."""
        self.stop()
        with self._changed:
            self._arrivals.clear()
            self._free_all()
            self._lap, self._place = lap, place
            self._resident_first = resident_first
            self._stopping = False
        self._thread = threading.Thread(target=self._copy_all, name="copier", daemon=True)
        self._thread.start()

    def _free_all(self) -> None:
        """Every slot is free that nobody is inside of, behind the kernels that were launched so far."""
        taken = {id(arrival.buffer) for arrival in self._inside.values()}
        for pool, slots in ((self._free, self._slots), (self._free_passing, self._passing_slots)):
            last = self._accelerator.compute_queue.record() if slots else None
            pool.clear()
            pool.extend(_Slot(slot, last) for slot in slots if id(slot) not in taken)

    # -- the copier -------------------------------------------------------------------------------------------------

    def _copy_all(self) -> None:
        try:
            while self._after is not None and not (self._after.wait(0.02) or self._urgent or self._stopping):
                pass
            for task in self._tasks():
                if self._stopping or not self._copy(task):
                    return
        except Stopped:
            pass
        except BaseException as error:  # whoever waits for the block is told
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self.loaded.set()

    def _slotted(self, lap: int, place: int) -> Iterator[tuple[int, int]]:
        """(lap, place) of what goes into slots from there on, each that only passes through once."""
        passed = set(self._passed)
        while self._streamed or self._passing - passed:
            for at in range(place, len(self._order)):
                number = self._order[at]
                if number in self._streamed or number in self._passing - passed:
                    passed.add(number)
                    yield lap, at
            lap, place = lap + 1, 0

    def _tasks(self) -> Iterator[_Task]:
        """What to copy, in order: before the first lap ends, all that is resident, each in its place."""
        missing = [number for number in self._order if number in self._awaited and number not in self._resident]
        once = deque(_Task(number, False, 0) for number in missing)
        if self._resident_first:
            yield from once
            once.clear()
        first = self._lap
        for lap, place in self._slotted(self._lap, self._place):
            while once and (lap > first or self._places[once[0].number] < place):
                yield once.popleft()
            if lap > first:
                self.loaded.set()
            yield _Task(self._order[place], True, lap)
        yield from once

    def _copy(self, task: _Task) -> bool:
        """Stage a slab and enqueue its copy; False when there is nothing more to do."""
        number = task.number
        with self._changed:
            while task.into_slot and not self._stopping and self._passes is not None and task.lap >= self._passes:
                self._changed.wait()
            if self._stopping:
                return False
        slab = self._slabs[number]
        self._read_ahead(number)
        # before there is a slot: reading goes on meanwhile
        staged = self._staging.stage(self._store, slab, 0, self._is_stopping)
        queue = self._accelerator.copy_queue
        slot: _Slot | None = None
        if task.into_slot:
            slot = self._free_slot(number)
            if slot is None:
                return False
            if slot.event is not None:
                queue.wait(slot.event)
        target = self._missing[number] if slot is None else slot.buffer
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
                self._resident[number] = event
            else:
                self._arrivals.append(_Arrival(number, event, slot.buffer))
            self._changed.notify_all()
        return True

    def _free_slot(self, number: int) -> _Slot | None:
        """A slot for a slab, when there is one; None when there is nothing more to do."""
        free = self._free_passing if number in self._passing else self._free
        with self._changed:
            self._starving = not free
            self._changed.notify_all()
            while not free and not self._stopping:
                self._changed.wait()
            self._starving = False
            return None if self._stopping else free.popleft()

    def _read_ahead(self, number: int) -> None:
        """Let the OS read the next slab from the disk while this one is staged, the first time that it is needed."""
        behind = self._places[number] + 1
        if behind < len(self._order) and self._told < behind:
            self._told = behind
            self._store.advise([self._slabs[self._order[behind]]], "WILLNEED")

    def _is_stopping(self) -> bool:
        return self._stopping
