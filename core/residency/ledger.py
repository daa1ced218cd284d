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
        self._total = 0
        self._peak = 0

    @property
    def resident_bytes(self) -> int:
        """Bytes on the device now."""
        return self._total

    @property
    def peak_bytes(self) -> int:
        """The most bytes on the device since `start_run`."""
        return self._peak

    def start_run(self) -> None:
        """Begin the account of a run: peaks start at what is held now."""
        self._peaks = dict(self._held)
        self._peak = self._total

    def change(
        self, key: Key, owner: str, model: str, stored: str, change: int, reason: str, *, folded: bool = False
    ) -> None:
        """Note that `change` bytes of a component came to the device, or left it where negative.

        Of what is `folded` the modulation is computed before it runs.
        """
        held = self._held.get(key, 0) + change
        if held > 0:
            self._held[key] = held
        else:
            self._held.pop(key, None)
        self._peaks[key] = max(self._peaks.get(key, 0), held)
        self._total += change
        self._peak = max(self._peak, self._total)
        self._emit(LedgerRecord(time.time(), owner, model, key[1], stored, change, self._total, reason, folded))

    def use(self, key: Key, stored: str, size: int, streamed: int = 0, folded: int = 0) -> ComponentUse:
        """What a component of `size` bytes was in the run so far; `streamed` bytes of it came in every pass.

        `folded` bytes beside these were not on the device while it ran.
        """
        return ComponentUse(
            format=stored,
            bytes=size,
            peak_bytes=self._peaks.get(key, 0),
            resident_bytes=self._held.get(key, 0),
            streamed_bytes=streamed,
            folded_bytes=folded,
        )
