"""How long phases took, and so how long the rest of a run will take."""

from __future__ import annotations

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
