"""The plan of a job: which components each phase holds, what they weigh, and what stays warm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from core.messages import Phase, UserError


class PhasePlan(msgspec.Struct, frozen=True):
    """One phase: the components that are on the device while it runs, and their bytes together."""

    phase: Phase
    components: tuple[str, ...]
    resident_bytes: int


class Plan(msgspec.Struct, frozen=True):
    """The decision for a job. `keep_warm` says whether everything stays on the device after it."""

    phases: tuple[PhasePlan, ...]
    budget_bytes: int
    peak_bytes: int
    keep_warm: bool
    reasons: tuple[str, ...]


def solve(phases: Sequence[tuple[Phase, Sequence[str]]], device_bytes: Mapping[str, int], budget_bytes: int) -> Plan:
    """Hold each phase's components whole; keep all of them warm when they fit together.

    Args:
        phases: the phases in order, each with the names of the components that it runs.
        device_bytes: bytes of each component in the format it will be held in.
        budget_bytes: bytes of device memory that weights may use.

    Raises:
        UserError: a phase does not fit; the sentence says the smallest budget that would do.
    """
    planned = tuple(
        PhasePlan(phase, tuple(names), sum(device_bytes[name] for name in names)) for phase, names in phases
    )
    largest = max(planned, key=lambda phase: phase.resident_bytes)
    if largest.resident_bytes > budget_bytes:
        raise UserError(
            f"The {largest.phase} phase needs {largest.resident_bytes / 1e9:.1f} GB of device memory and "
            f"{budget_bytes / 1e9:.1f} GB may be used; close other programs or choose a smaller model."
        )
    everything = sum(device_bytes[name] for name in {name for phase in planned for name in phase.components})
    keep_warm = everything <= budget_bytes
    if keep_warm:
        reason = f"all components fit together ({everything / 1e9:.2f} of {budget_bytes / 1e9:.2f} GB): all stay warm"
    else:
        reason = (
            f"together the components need {everything / 1e9:.1f} GB of {budget_bytes / 1e9:.1f} GB: "
            "each phase's components leave when another phase needs the room"
        )
    return Plan(planned, budget_bytes, everything if keep_warm else largest.resident_bytes, keep_warm, (reason,))
