"""Formats under a number of bytes: what a target size or a card leaves for weights, and how the choice is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.conversion.allocate import Option, allocate
from core.conversion.choice import LADDER, Candidate
from core.conversion.costs import Costs
from core.hardware import profile as hardware_profiles
from core.messages import UserError
from core.models import profile as models
from core.models.sensitivity import rules
from core.planning.options import budget_of
from core.residency.slabs import aligned
from core.sizes import at_least, in_words

_BY_ITSELF = LADDER[:-2]  # Q3_K and Q2_K only where the size cannot be had without them
_UNKNOWN_ACTIVATIONS = 0.2  # of the budget, where no shipped profile says what a family needs beside weights: assumed


def under(
    listed: Sequence[Candidate],
    costs: Costs,
    size: int,
    scaled: Mapping[str, float] | None = None,
    head: int = 0,
) -> dict[str, str]:
    """The format of each tensor, so that all take at most `size` bytes, each rounded up to where the next begins.

    Args:
        scaled: by rule, what to multiply its factor by.
        head: bytes of the file beside these, for the sentence.

    Raises:
        UserError: that cannot be; the sentence says the smallest size that can.
    """
    options: list[list[Option]] = []
    for ladder in (_BY_ITSELF, LADDER[:-1], LADDER):
        options = [_options(entry, costs, ladder, scaled) for entry in listed]
        if (found := allocate(options, size)) is not None:
            return {entry.name: option.format for entry, option in zip(listed, found, strict=True)}
    least = sum(min(option.bytes for option in some) for some in options)
    raise UserError(
        f"{in_words(size + head)} is too small: even in the smallest types that its rows fit it takes "
        f"{at_least(least + head)}; ask for that or more."
    )


def moved(
    listed: Sequence[Candidate], costs: Costs, size: int, formats: Mapping[str, str], family: str
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
            other = under(listed, costs, size, scaled)
            changed = sum(
                entry.bytes_in(formats[entry.name]) for entry in listed if other[entry.name] != formats[entry.name]
            )
            ours = loss(listed, costs, formats, scaled)
            best = min(ours, loss(listed, costs, other, scaled))  # both are within a step of the optimum
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
    listed: Sequence[Candidate], costs: Costs, formats: Mapping[str, str], scaled: Mapping[str, float] | None = None
) -> float:
    """What all tensors cost together."""
    return sum(costs.loss(entry, formats[entry.name], scaled) for entry in listed)


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


def _options(entry: Candidate, costs: Costs, ladder: Sequence[str], scaled: Mapping[str, float] | None) -> list[Option]:
    return [
        Option(name, aligned(entry.bytes_in(name)), costs.loss(entry, name, scaled))
        for name in costs.formats(entry, ladder)
    ]
