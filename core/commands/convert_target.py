"""Formats under a number of bytes: what a target size or a card leaves for weights, and how the choice is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.commands.convert_allocate import Option, allocate
from core.commands.convert_choice import LADDER, Candidate, Errors, rungs
from core.hardware import profile as hardware_profiles
from core.messages import UserError
from core.models import profile as models
from core.models.sensitivity import rules, sensitivity
from core.planning.options import budget_of
from core.residency.slabs import aligned

_BY_ITSELF = LADDER[:-2]  # Q3_K and Q2_K only where the size cannot be had without them
_UNKNOWN_ACTIVATIONS = 0.2  # of the budget, where no shipped profile says what a family needs beside weights: assumed


class Weights:
    """How much each tensor counts."""

    def __init__(self, listed: Sequence[Candidate], family: str) -> None:
        blocks = sorted({(entry.component, entry.block) for entry in listed if entry.block is not None})
        counts: dict[str, int] = {}
        self._places: dict[tuple[str, tuple[int, ...]], int] = {}
        for component, block in blocks:
            self._places[component, block] = counts.get(component, 0)
            counts[component] = counts.get(component, 0) + 1
        self._counts, self._family = counts, family

    def of(self, entry: Candidate, scaled: Mapping[str, float] | None = None) -> float:
        """A tensor's sensitivity."""
        place = None
        if entry.block is not None:
            place = self._places[entry.component, entry.block], self._counts[entry.component]
        return sensitivity(entry.inner, self._family, entry.kind, place, scaled)


def under(
    listed: Sequence[Candidate], errors: Errors, weights: Weights, size: int, scaled: Mapping[str, float] | None = None
) -> dict[str, str]:
    """The format of each tensor, so that all take at most `size` bytes, each rounded up to where the next begins.

    Raises:
        UserError: that cannot be; the sentence says the smallest size that can.
    """
    options: list[list[Option]] = []
    for ladder in (_BY_ITSELF, LADDER[:-1], LADDER):
        options = [_options(entry, errors, weights.of(entry, scaled), ladder) for entry in listed]
        if (found := allocate(options, size)) is not None:
            return {entry.name: option.format for entry, option in zip(listed, found, strict=True)}
    least = sum(min(option.bytes for option in some) for some in options)
    raise UserError(f"{size / 1e9:.2f} GB is too small: even in Q2_K it takes {least / 1e9:.2f} GB; ask for more.")


def moved(
    listed: Sequence[Candidate], errors: Errors, weights: Weights, size: int, formats: Mapping[str, str], family: str
) -> list[dict[str, Any]]:
    """How the choice moves when an assumed sensitivity is twice or half as large.

    For each rule: the share of bytes that then take another format, and the loss of the choice that was made against
    that of the one that would be made.
    """
    total = sum(entry.bytes_in(formats[entry.name]) for entry in listed) or 1
    result = []
    for rule in rules():
        if not rule.assumed or rule.family not in ("", family):
            continue
        for times in (0.5, 2.0):
            scaled = {rule.name: times}
            other = under(listed, errors, weights, size, scaled)
            changed = sum(
                entry.bytes_in(formats[entry.name]) for entry in listed if other[entry.name] != formats[entry.name]
            )
            ours = loss(listed, errors, weights, formats, scaled)
            best = min(ours, loss(listed, errors, weights, other, scaled))  # both are within a step of the optimum
            result.append(
                {
                    "rule": rule.name,
                    "times": times,
                    "bytes_changed": changed / total,
                    "loss_above_best": ours / best - 1 if best else 0.0,
                }
            )
    return result


def loss(
    listed: Sequence[Candidate],
    errors: Errors,
    weights: Weights,
    formats: Mapping[str, str],
    scaled: Mapping[str, float] | None = None,
) -> float:
    """Sum of sensitivity * numbers * squared error."""
    return sum(
        weights.of(entry, scaled) * entry.source.stored.elements * errors[entry.name].get(formats[entry.name], 0.0) ** 2
        for entry in listed
    )


def room_on(gpu: str, family: str) -> int:
    """Bytes for weights on a card: its budget, less what the family computes with beside them at its usual size.

    Raises:
        UserError: there is no such card.
    """
    budget = budget_of(hardware_profiles.load(gpu))
    needs = []
    for name in models.names():
        shipped = models.load(name)
        if shipped.family == family:
            needs += _activations(shipped)
    return budget - (max(needs) if needs else round(budget * _UNKNOWN_ACTIVATIONS))


def _activations(shipped: models.ModelProfile) -> list[int]:
    from core.planning.job import Job

    size = shipped.defaults
    job = Job(
        model=shipped, width=size.width, height=size.height, frames=size.frames, steps=1, text_tokens=size.text_tokens
    )
    return [
        models.activation(shipped.components[name], job.variables(phase))
        for phase in shipped.phases
        if phase.phase.value == "denoise"
        for name in phase.components
    ]


def _options(entry: Candidate, errors: Errors, weight: float, ladder: Sequence[str]) -> list[Option]:
    scale = weight * entry.source.stored.elements
    return [
        Option(name, aligned(entry.bytes_in(name)), scale * errors[entry.name].get(name, 0.0) ** 2)
        for name in rungs(entry, ladder)
    ]
