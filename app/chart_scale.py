"""Where bytes and seconds stand on the residency chart. Plain arithmetic, no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.outline import Span

# Where a plan needs less than this share of the budget, the scale is the plan's, and the budget lies beyond it.
_SMALL = 0.3
_HEADROOM = 1.06  # of the scale above the highest
_STEPS = (1, 2, 4, 5, 10)


@dataclass(frozen=True)
class Frame:
    """The plot's rectangle."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge, where bytes are 0."""
        return self.top + self.height


class Scale:
    """From seconds to x and from bytes to y, and back.

    Each phase is as wide as its share of the time, but never narrower than its name: within a phase time runs evenly.
    """

    def __init__(
        self, frame: Frame, spans: Sequence[Span], budget_bytes: int, most_bytes: int, least_widths: Sequence[float]
    ) -> None:
        self.frame = frame
        self._spans = spans
        widths = _widths([span.seconds for span in spans], frame.width, least_widths)
        self._edges = [frame.left]
        for width in widths:
            self._edges.append(self._edges[-1] + width)
        most = max(1, most_bytes)
        self.beyond = budget_bytes > most / _SMALL
        self.top_bytes = most / 0.8 if self.beyond else max(budget_bytes, most) * _HEADROOM

    def x(self, seconds: float) -> float:
        """Where a time stands."""
        for span, left, right in zip(self._spans, self._edges, self._edges[1:], strict=False):
            if seconds < span.end:
                return left + max(0.0, seconds - span.begin) / max(span.seconds, 1e-12) * (right - left)
        return self._edges[-1]

    def seconds(self, x: float) -> float:
        """Which time stands there."""
        for span, left, right in zip(self._spans, self._edges, self._edges[1:], strict=False):
            if x < right:
                return span.begin + max(0.0, x - left) / max(right - left, 1e-12) * span.seconds
        return self._spans[-1].end if self._spans else 0.0

    def y(self, amount: float) -> float:
        """Where bytes stand."""
        return self.frame.bottom - amount / self.top_bytes * self.frame.height

    def amount(self, y: float) -> float:
        """How many bytes stand there."""
        return (self.frame.bottom - y) / max(self.frame.height, 1e-9) * self.top_bytes

    @property
    def borders(self) -> list[float]:
        """Where one phase ends and the next begins."""
        return self._edges[1:-1]

    def edges(self, number: int) -> tuple[float, float]:
        """Left and right edge of a phase."""
        return self._edges[number], self._edges[number + 1]

    def ticks(self, most: int) -> list[int]:
        """Round numbers of bytes from 0 up, `most` at the most besides 0."""
        power = 1
        while True:
            for step in _STEPS:
                if self.top_bytes / (step * power) <= most + 0.99:
                    size = step * power
                    return [size * i for i in range(int(self.top_bytes // size) + 1)]
            power *= 10


def _widths(seconds: Sequence[float], room: float, wanted: Sequence[float]) -> list[float]:
    """Shares of the room, none below its least while there is room for that."""
    least = [min(one, room / len(seconds)) for one in wanted]
    narrow: set[int] = set()
    while True:
        wide = sum(value for place, value in enumerate(seconds) if place not in narrow) or 1e-12
        left = room - sum(least[place] for place in narrow)
        widths = [least[place] if place in narrow else left * value / wide for place, value in enumerate(seconds)]
        more = {place for place, width in enumerate(widths) if width < least[place] - 1e-9} - narrow
        if not more or len(narrow | more) == len(seconds):
            return widths
        narrow |= more
