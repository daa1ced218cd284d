"""Modelled time of two queues that run beside each other and slow each other down, paced by the real clock.

Everything is reckoned in modelled moments: when an operation begins is given, when it ends follows. Real time only has
to catch up: `finish` sleeps until the modelled end has come. Where the sleep was too long or the real arithmetic too
slow, the next operation still begins at the modelled end of the one before, so that errors never add up.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

COPY, COMPUTE = 0, 1
# Nobody sleeps for less: it would take longer. Operations may end so much before their moment, all together.
_GRAIN_SECONDS = 1e-4


@dataclass
class _Lane:
    """The operation that a queue works at: at the moment `at` it needs `left` more seconds by itself."""

    slowdown: float
    active: bool = False
    at: float = 0.0
    left: float = 0.0


class Timeline:
    """When operations end. Each lane is used by one thread."""

    def __init__(self, slowdowns: Sequence[float]) -> None:
        """An operation of lane i takes 1 + slowdowns[i] times as long while the other lane works."""
        self._lanes = [_Lane(slowdown) for slowdown in slowdowns]
        self._changed = threading.Condition()

    def begin(self, lane: int, at: float, seconds: float) -> None:
        """An operation of `seconds` begins at the moment `at`; infinity where it takes what it takes."""
        with self._changed:
            me, other = self._lanes[lane], self._lanes[1 - lane]
            self._advance(other, at, beside=False)
            me.active, me.at, me.left = True, at, seconds
            self._changed.notify_all()

    def finish(self, lane: int) -> float:
        """Wait until the lane's operation is over; returns the modelled moment of its end."""
        with self._changed:
            while True:
                end = self._end(lane)
                wait = end - time.monotonic()
                if wait <= _GRAIN_SECONDS:
                    break
                self._changed.wait(wait)  # the other lane may begin something meanwhile, which moves the end
            self._close(lane, end)
            return end

    def finish_at(self, lane: int, end: float) -> float:
        """The lane's operation, one that took what it took, is over at this moment."""
        with self._changed:
            self._close(lane, end)
            return end

    # -- with the lock held -----------------------------------------------------------------------------------------

    def _close(self, lane: int, end: float) -> None:
        me, other = self._lanes[lane], self._lanes[1 - lane]
        self._advance(other, end, beside=True)
        me.active = False
        self._changed.notify_all()

    @staticmethod
    def _advance(lane: _Lane, to: float, *, beside: bool) -> None:
        """Reckon what a lane has done up to a moment, alone or beside the other."""
        if not lane.active or to <= lane.at or math.isinf(lane.left):
            return
        pace = 1 / (1 + lane.slowdown) if beside else 1.0
        done = min(lane.left, (to - lane.at) * pace)
        lane.at += done / pace
        lane.left -= done

    def _end(self, lane: int) -> float:
        """When the lane's operation ends, if nothing more begins."""
        me, other = self._lanes[lane], self._lanes[1 - lane]
        slow = 1 + me.slowdown
        if not other.active or other.left <= 0:
            return me.at + me.left
        if math.isinf(other.left) or math.isinf(me.left):
            return me.at + me.left * slow
        other_end = other.at + other.left * (1 + other.slowdown)
        end = me.at + me.left * slow
        if end <= other_end:
            return end
        beside = max(0.0, other_end - me.at)
        return other_end + me.left - beside / slow if beside else me.at + me.left
