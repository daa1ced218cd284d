"""How much an error in a tensor shows in the result: by family and rule, or as measured on the model. No torch.

The rules are data, resources/families/sensitivity.json; each says where its factor comes from, or that it is assumed.
Factors of all rules that fit are multiplied; where none fits it is 1. What was measured (core.generation.onestep) takes
their place, and may be kept in a file.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from core.files import write_atomically
from core.messages import ModelFileError
from core.resources import resource

_VERSION = 1  # of the files of what was measured


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Empty fields fit anything.

    `first` and `last` count a network's blocks from its ends, in the order they run. A rule with `least_blocks` holds
    for networks of so many only: what is known of a deep one is not known of a small relative.
    """

    name: str
    family: str = ""
    kind: str = ""
    pattern: str = ""
    first: int = 0
    last: int = 0
    least_blocks: int = 0
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
    if not (rule.first or rule.last or rule.least_blocks):
        return True
    if place is None:
        return False
    number, count = place
    if count < rule.least_blocks:
        return False
    return not (rule.first or rule.last) or number < rule.first or number >= count - rule.last


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each format of each tensor costs, measured on one model.

    Attributes:
        model: its name, for people; `fingerprint` names its content (core.models.info.ModelInfo).
        calls: how many calls of the denoiser were looked at, with prompts and timesteps of their own.
        losses: by component, tensor (its name there) and format: the squared relative error of the denoiser's output in
            one step, ||output - reference||^2 / ||reference||^2, that this tensor in this format is expected to add.
        fitted: the same where rounding fits what layers are given (core.conversion.fitted); empty where nobody looked.
    """

    version: int = _VERSION
    model: str
    family: str
    fingerprint: str
    calls: int
    losses: dict[str, dict[str, dict[str, float]]]
    fitted: dict[str, dict[str, dict[str, float]]] = {}


def read_measured(path: Path) -> Measured:
    """What `write_measured` wrote.

    Raises:
        ModelFileError: there is no such file, or it holds something else.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Measured)
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read ({error.strerror}); measure again with --sensitivity measured."
        ) from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ModelFileError(f"{path} holds no measured sensitivities ({error}); measure again.") from error
    values = [
        loss
        for some in (found.losses, found.fitted)
        for tensors in some.values()
        for losses in tensors.values()
        for loss in losses.values()
    ]
    if found.version != _VERSION or any(not 0 <= loss < float("inf") for loss in values):
        raise ModelFileError(f"{path} is of another version or damaged; measure again with --sensitivity measured.")
    return found


def write_measured(path: Path, measured: Measured) -> None:
    """Keep it, whole or not at all. Raises OSError where there is no room."""
    write_atomically(path, lambda stream: stream.write(msgspec.json.format(msgspec.json.encode(measured), indent=1)))
