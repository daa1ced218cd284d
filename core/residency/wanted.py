"""What a phase asks of the warm cache, what answers it, and what leaves for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from core.planning.explain import seconds as in_seconds
from core.planning.leaving import Return
from core.residency.ledger import Key
from core.residency.packed import Scratch
from core.residency.slabs import Division
from core.residency.store import HostStore
from core.sizes import in_words

_LINK_RATE = 12e9  # bytes per second where nobody says: assumed, a PCIe 3.0 x16

Returns = Callable[[str, Sequence[Key]], Mapping[Key, Return]]
"""What bringing components back takes and how likely they are wanted next, by the identity of the model that runs and
the components, the last used one first."""


class DoesNotFitError(torch.OutOfMemoryError):
    """A component found no room although everything else had left; the sentence is for the person."""


@dataclass(frozen=True)
class Want:
    """One component in one phase.

    `counts` says how many blocks of each size (by falling size) are resident, None all; `room_bytes` what these and
    the slots take, for a network whose blocks have other sizes than the plan knew. `passes` is how often it will run,
    None if nobody knows. `folds` says that some layers are computed before it runs (core.residency.folding), `pinned`
    that what streams stays in pinned host memory. Where host memory does not take all, it keeps `hosted` bytes.
    """

    name: str
    format: str
    counts: Sequence[int] | None = None
    slots: int = 0
    room_bytes: int = 0
    passes: int | None = None
    folds: bool = False
    pinned: bool = False
    hosted: int | None = None


@dataclass(frozen=True)
class Opened:
    """A network that can be held in a format: with its slabs where weights must cross a link, else with its weights.

    `scratch` is what packed layers decode into. `host_bytes` is what it takes of host memory while it is known.
    """

    module: nn.Module
    format: str
    slabs: tuple[Division, HostStore] | None = None
    scratch: Scratch | None = None
    host_bytes: int = 0


@dataclass(frozen=True)
class Leaver:
    """Bytes of a component of another model that leave when room is needed."""

    key: Key
    model: str
    bytes: int
    back: Return

    @property
    def words(self) -> str:
        """Why these."""
        takes = in_seconds(self.bytes * self.back.seconds_per_byte)
        return (
            f"bringing {in_words(self.bytes)} back takes {takes}, and they are wanted next with {self.back.chance:.0%}"
        )


def by_recency(mine: str, keys: Sequence[Key]) -> dict[Key, Return]:
    """Of models of which nothing is known the one that runs goes on; if not, the last used one with 1/2, and so on."""
    models = list(dict.fromkeys([mine, *(identity for identity, _ in keys)]))
    return {key: Return(1 / _LINK_RATE, 0.5 ** models.index(key[0])) for key in keys}
