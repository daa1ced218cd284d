"""What a table of published figures is, and what simulates one (see bench_published)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from core.hardware import profile as cards
from core.hardware.profile import HardwareProfile
from core.planning.job import Job
from core.planning.options import Options
from core.planning.simulate import OURS, Behaviour, Simulation, simulate
from core.planning.solve import solve

GB = 10**9
WHOLE = 1_000_000  # more blocks than any component has


class Row(msgspec.Struct, frozen=True):
    """A published figure, and what simulates it on a card.

    `role` is fitted, predicted, or source (the planner's own assumptions come from this row).
    """

    name: str
    published: float
    simulate: Callable[[HardwareProfile], float]
    role: str = "predicted"
    unit: str = "s"


class Table(msgspec.Struct, frozen=True):
    """One card of one publication. `field` of its profile is fitted, between two bounds; nothing where it is empty."""

    title: str
    source: str
    card: HardwareProfile
    field: str
    between: tuple[float, float]
    rows: tuple[Row, ...]
    left_out: str = ""


def run(job: Job, card: HardwareProfile, options: Options, behaviour: Behaviour = OURS) -> Simulation:
    """Plan and simulate a job."""
    plan, _ = solve(job, card, options)
    return simulate(plan, job, card, options, behaviour)


def peers(**fixed: object) -> Options:
    """What no other program does is off: folding, calls in lockstep, the next phase's weights loaded ahead."""
    return msgspec.structs.replace(Options(fold=False, lockstep=False, ahead=False, more_slots=False), **fixed)


def shipped(name: str, **changes: object) -> HardwareProfile:
    """A card as it ships, with the host's side of a publication."""
    return msgspec.structs.replace(cards.load(name), **changes)
