"""How long drafts take, by model and size, and so whether drafting while typing is of any use. Plain data, no Qt."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from core.messages import Phase, Request, Result

# A draft that takes longer than this shows a text that has long changed.
SLOW_SECONDS = 2.0
# Of these the middle counts: one busy moment neither stops drafts nor lets them go on.
_REMEMBERED = 3


class Pace:
    """Seconds of drafts, measured or remembered from an earlier session."""

    def __init__(self, remembered: Mapping[str, float] | None = None) -> None:
        self._seconds = {key: deque([value], maxlen=_REMEMBERED) for key, value in (remembered or {}).items()}
        self._guessed: dict[str, float] = {}
        self._loaded = ""

    def record(self, request: Request, result: Result) -> None:
        """Learn from a finished draft. The loading of a model that was not there counts once, so it is left out."""
        seconds = result.seconds.get("total", 0.0)
        if request.model != self._loaded:
            self._loaded = request.model
            seconds -= result.seconds.get(Phase.LOAD, 0.0)
        key = _key(request)
        self._guessed.pop(key, None)
        self._seconds.setdefault(key, deque(maxlen=_REMEMBERED)).append(seconds)

    def at_least(self, request: Request, seconds: float) -> None:
        """A draft is still not done after this time: until one is, that is all that is known."""
        if _key(request) not in self._seconds:
            self._guessed[_key(request)] = seconds

    def nothing_loaded(self) -> None:
        """The engine is gone, and with it what it had loaded."""
        self._loaded = ""

    def seconds(self, request: Request) -> float | None:
        """How long a draft of this model and size takes; None when none was ever made."""
        key = _key(request)
        return _middle(self._seconds[key]) if key in self._seconds else self._guessed.get(key)

    def is_slow(self, request: Request) -> bool:
        """Whether drafting while typing is known to be of no use."""
        seconds = self.seconds(request)
        return seconds is not None and seconds >= SLOW_SECONDS

    def remembered(self) -> dict[str, float]:
        """What is worth keeping for the next session."""
        return {key: _middle(known) for key, known in self._seconds.items()}


def _middle(values: deque[float]) -> float:
    # of two the lower: the first draft of all may have had to choose kernels
    return sorted(values)[(len(values) - 1) // 2]


def _key(request: Request) -> str:
    return f"{request.model} {request.width or 0}x{request.height or 0}"
