"""How much an error in a tensor shows in the result, by family and rule. No torch.

The rules are data, resources/families/sensitivity.json; each says where its factor comes from, or that it is assumed.
Factors of all rules that fit are multiplied; where none fits it is 1.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

import msgspec

from core.resources import resource


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Empty fields fit anything. `first` and `last` count a network's blocks from its ends, in the order they run."""

    name: str
    family: str = ""
    kind: str = ""
    pattern: str = ""
    first: int = 0
    last: int = 0
    factor: float
    assumed: bool
    source: str


@functools.cache
def rules() -> tuple[Rule, ...]:
    """The shipped rules."""

    class _File(msgspec.Struct, forbid_unknown_fields=True):
        rules: tuple[Rule, ...]

    return msgspec.json.decode(resource("families", "sensitivity.json").read_bytes(), type=_File).rules


def sensitivity(
    name: str, family: str, kind: str, place: tuple[int, int] | None, scaled: Mapping[str, float] | None = None
) -> float:
    """The factor of a tensor.

    Args:
        name: in its network.
        kind: of its component (core.models.roles).
        place: the number of its block, from 0, and how many there are; None outside of blocks.
        scaled: by rule, what to multiply its factor by: to see how much hangs on it.
    """
    factor = 1.0
    for rule in rules():
        if _fits(rule, name, family, kind, place):
            factor *= rule.factor * (scaled or {}).get(rule.name, 1.0)
    return factor


def _fits(rule: Rule, name: str, family: str, kind: str, place: tuple[int, int] | None) -> bool:
    if rule.family not in ("", family) or rule.kind not in ("", kind):
        return False
    if rule.pattern and not re.fullmatch(rule.pattern, name):
        return False
    if not (rule.first or rule.last):
        return True
    if place is None:
        return False
    number, count = place
    return number < rule.first or number >= count - rule.last
