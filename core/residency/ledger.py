"""The ledger: the record of every arrival in and departure from device memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from core.messages import ComponentUse, LedgerRecord

Key = tuple[str, str]  # model identity, component name


class Ledger:
    """Counts the bytes that each component holds on the device and tells every change to `emit`."""

    def __init__(self, emit: Callable[[LedgerRecord], None]) -> None:
        self._emit = emit
        self._held: dict[Key, int] = {}
        self._peaks: dict[Key, int] = {}
        self._peak = 0

    @property
    def resident_bytes(self) -> int:
        """Bytes on the device now."""
        return sum(self._held.values())

    @property
    def peak_bytes(self) -> int:
        """The most bytes on the device since `start_run`."""
        return self._peak

    def start_run(self) -> None:
        """Begin the account of a run: peaks start at what is held now."""
        self._peaks = dict(self._held)
        self._peak = self.resident_bytes

    def arrive(self, key: Key, owner: str, model: str, stored: str, size: int, reason: str) -> None:
        """Note that `size` bytes of a component are now on the device."""
        self._change(key, owner, model, stored, size, reason)

    def depart(self, key: Key, owner: str, model: str, stored: str, reason: str) -> None:
        """Note that a component left the device."""
        self._change(key, owner, model, stored, -self._held.get(key, 0), reason)

    def use(self, key: Key, stored: str) -> ComponentUse:
        """What a component was in the run so far."""
        held, peak = self._held.get(key, 0), self._peaks.get(key, 0)
        return ComponentUse(format=stored, bytes=peak, peak_bytes=peak, resident_bytes=held)

    def _change(self, key: Key, owner: str, model: str, stored: str, change: int, reason: str) -> None:
        held = self._held.get(key, 0) + change
        if held > 0:
            self._held[key] = held
        else:
            self._held.pop(key, None)
        self._peaks[key] = max(self._peaks.get(key, 0), held)
        total = self.resident_bytes
        self._peak = max(self._peak, total)
        self._emit(LedgerRecord(time.time(), owner, model, key[1], stored, change, total, reason))
