"""What each format of each tensor costs: as measured on the model, where it was, else by sensitivities and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from core.conversion.choice import LADDER, Candidate, Errors, rungs
from core.models.sensitivity import Measured, sensitivity
from core.precision.formats import FORMATS


class Costs:
    """Losses, which add up over tensors: squared relative one-step errors, or what rules have in their place."""

    def __init__(
        self, listed: Sequence[Candidate], family: str, errors: Errors, measured: Measured | None = None
    ) -> None:
        """Where only some tensors were measured, the others' losses are brought to their scale."""
        blocks = sorted({(entry.component, entry.block) for entry in listed if entry.block is not None})
        counts: dict[str, int] = {}
        self._places: dict[tuple[str, tuple[int, ...]], int] = {}
        for component, block in blocks:
            self._places[component, block] = counts.get(component, 0)
            counts[component] = counts.get(component, 0) + 1
        self._counts, self._family, self._errors = counts, family, errors
        found = {entry.name: _together(entry, measured.losses) for entry in listed} if measured is not None else {}
        self._measured = {name: losses for name, losses in found.items() if losses is not None}
        self._unit = self._scale([entry for entry in listed if entry.name in self._measured])

    @property
    def measured(self) -> int:
        """How many tensors were measured."""
        return len(self._measured)

    def formats(self, entry: Candidate, ladder: Sequence[str] = LADDER) -> list[str]:
        """Those that a tensor may take. What was measured decides by itself, so no rule about roles holds for it."""
        losses = self._measured.get(entry.name)
        if losses is None or entry.kept:
            return rungs(entry, ladder)
        without = set(LADDER) - set(ladder)
        plain = entry.bytes_in(entry.plain)
        smaller = [name for name in losses if name not in without and entry.bytes_in(name) < plain]
        return [entry.plain, *smaller]

    def loss(self, entry: Candidate, stored: str, scaled: Mapping[str, float] | None = None) -> float:
        """Of one tensor in one format. `scaled` is, by rule, what to multiply its factor by."""
        if stored == entry.source.stored.type:
            return 0.0
        losses = self._measured.get(entry.name)
        if losses is not None:
            return losses.get(stored, 0.0)
        return self._unit * self._by_rule(entry, stored, scaled)

    def expected(self, listed: Sequence[Candidate], formats: Mapping[str, str]) -> float:
        """The relative one-step error that the measured tensors will make: errors of tensors add up in squares."""
        known = [entry for entry in listed if entry.name in self._measured]
        return math.sqrt(sum(self.loss(entry, formats[entry.name]) for entry in known))

    def _by_rule(self, entry: Candidate, stored: str, scaled: Mapping[str, float] | None = None) -> float:
        """Sensitivity * numbers * squared error."""
        place = None
        if entry.block is not None:
            place = self._places[entry.component, entry.block], self._counts[entry.component]
        total = sum(count for _, count in entry.members) or 1
        factor = sum(
            sensitivity(name, self._family, entry.kind, place, scaled) * count / total for name, count in entry.members
        )
        return factor * entry.source.stored.elements * self._errors[entry.name].get(stored, 0.0) ** 2

    def _scale(self, known: Sequence[Candidate]) -> float:
        """What was measured for each unit of what rules say, over all tensors of which both are known."""
        both = [
            (entry, name) for entry in known for name in self._errors[entry.name] if name in self._measured[entry.name]
        ]
        by_rule = sum(self._by_rule(entry, name) for entry, name in both)
        return sum(self._measured[entry.name][name] for entry, name in both) / by_rule if by_rule else 1.0


def _together(entry: Candidate, losses: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float] | None:
    """The measured losses of a tensor, which may be put together from several, by rows: blocks never cross these."""
    own = entry.source.stored.type
    if own not in FORMATS or FORMATS[own].packed:
        return None
    of = losses.get(entry.component, {})
    parts = [of.get(name) for name, _ in entry.members]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    shared = set.intersection(*(set(part) for part in known))
    return {name: sum(part[name] for part in known) for name in FORMATS if name in shared}
