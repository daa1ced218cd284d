"""How long phases took, and so how long the rest of a run will take."""

from __future__ import annotations

import time

from core.messages import Phase

# Weight of the newest measurement in the running mean.
_NEWEST = 0.4

Key = tuple[str, int, int]  # model identity, width, height


class Pace:
    """Running means of seconds per phase (per step for denoising), by model and size, since the engine started."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[Key, Phase], float] = {}

    def note(self, key: Key, phase: Phase, seconds: float) -> None:
        """Take in a measurement: of one step for DENOISE, of the whole phase for the others."""
        known = self._seconds.get((key, phase))
        self._seconds[key, phase] = seconds if known is None else known + _NEWEST * (seconds - known)

    def left(self, key: Key, phase: Phase, steps_left: int) -> float | None:
        """Seconds until the picture is there, from the beginning of `phase` or after a step; None while unknown."""
        step = self._seconds.get((key, Phase.DENOISE))
        if step is None:
            return None
        decode = self._seconds.get((key, Phase.DECODE), 0.0)
        match phase:
            case Phase.ENCODE:
                return self._seconds.get((key, Phase.ENCODE), 0.0) + step * steps_left + decode
            case Phase.DENOISE:
                return step * steps_left + decode
            case Phase.DECODE:
                return decode
            case _:
                return None


class Stopwatch:
    """Times the steps of one denoise phase and the gaps between its previews."""

    def __init__(self) -> None:
        self._lap = time.monotonic()
        self._preview = 0.0

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.monotonic()
        seconds, self._lap = now - self._lap, now
        return seconds

    def since_preview(self) -> float:
        """Seconds since a preview was painted."""
        return time.monotonic() - self._preview

    def painted(self) -> None:
        """Note that one was painted; the time that it took is not the next step's."""
        self._preview = self._lap = time.monotonic()
