"""How long a picture will take, from how long pictures took. Nothing is said where nothing was measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from core.messages import Phase, Request, Result

# Enough to smooth over a busy moment, few enough to follow a change of the machine.
_REMEMBERED = 7

_REST = (Phase.ENCODE, Phase.IMAGE_ENCODE, Phase.DECODE, Phase.SAVE)

_Key = tuple[str, int, int]


class Times:
    """Measured seconds of past runs, by model and size."""

    def __init__(self) -> None:
        self._per_step: dict[_Key, deque[float]] = {}
        self._other: dict[_Key, deque[float]] = {}
        self._steps: dict[str, int] = {}
        self._size: dict[str, tuple[int, int]] = {}

    def record(self, result: Result) -> None:
        """Learn from a finished picture. Loading is left out: it happens once."""
        denoise = result.seconds.get(Phase.DENOISE, 0.0)
        made = result.made_steps or result.steps
        if made < 1 or denoise <= 0:
            return
        key = (result.model, result.width, result.height)
        rest = sum(result.seconds.get(phase, 0.0) for phase in _REST)
        self._per_step.setdefault(key, deque(maxlen=_REMEMBERED)).append(denoise / made)
        self._other.setdefault(key, deque(maxlen=_REMEMBERED)).append(rest)
        if not result.draft:
            self._steps[result.model] = result.steps
            self._size[result.model] = (result.width, result.height)

    def expected(self, request: Request) -> float | None:
        """Seconds that a request will probably take, or None when its model never ran at its size."""
        width, height = self._size.get(request.model, (0, 0))
        key = (request.model, request.width or width, request.height or height)
        steps = request.steps or self._steps.get(request.model, 0)
        if key not in self._per_step or steps < 1:
            return None
        if request.init is not None:  # how it is rounded is the family's matter
            steps = max(1, round(steps * (request.init.strength or 1.0)))
        return _median(self._per_step[key]) * steps + _median(self._other[key])


def _median(values: Iterable[float]) -> float:
    # the standard library's own brings fractions and decimals, which the first frame would wait for
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
