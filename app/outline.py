"""Bytes of device memory over time, as plain data: what a plan says will lie there, phase by phase. No Qt."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.plans import Phase, PhasePlan, Plan

if TYPE_CHECKING:
    from core.planning.simulate import Simulation

# Layers that are no component: what a pass needs beside weights, and where streamed blocks arrive.
ACTIVATIONS, SLOTS = "activations", "slots"
# What other models left on the device.
OTHERS = "other models"
# A plan says how long its weights take to arrive; the outline lets them arrive in so many steps.
_RAMP = 12

_ORDER = ("text_encoder", "image_encoder", "transformer", "unet", "vae", "vocoder")


@dataclass(frozen=True)
class Layers:
    """Bytes by component as steps: `amounts[name][i]` lie there from `times[i]` on, the last ones until `end`."""

    times: tuple[float, ...]
    amounts: dict[str, tuple[int, ...]]
    end: float

    def at(self, seconds: float) -> dict[str, int]:
        """What lies there at a time, the lowest layer first."""
        place = max(0, bisect_right(self.times, seconds) - 1)
        return {name: amounts[place] for name, amounts in self.amounts.items() if amounts[place]}

    @property
    def peak(self) -> int:
        """The most bytes at any time."""
        return max((sum(column) for column in zip(*self.amounts.values(), strict=True)), default=0)


@dataclass(frozen=True)
class Span:
    """One phase on the time axis. `plan` is what was decided for it, None where only its time is known."""

    phase: Phase
    label: str
    begin: float
    seconds: float
    plan: PhasePlan | None = None

    @property
    def end(self) -> float:
        """When it is over."""
        return self.begin + self.seconds


@dataclass(frozen=True)
class Outline:
    """A plan over time. Without a plan it is the frame for what was only measured, and has no layers of its own."""

    plan: Plan | None
    spans: tuple[Span, ...]
    layers: Layers | None

    @property
    def seconds(self) -> float:
        """From the beginning of the first phase to the end of the last."""
        return self.spans[-1].end if self.spans else 0.0

    def range_of(self, phase: Phase) -> tuple[float, float] | None:
        """Begin and end of all spans of a phase; a model may denoise in two of them."""
        found = [span for span in self.spans if span.phase is phase]
        return (found[0].begin, found[-1].end) if found else None

    def span_at(self, seconds: float) -> int:
        """The number of the span at a time; the nearest one outside of all."""
        later = [number for number, span in enumerate(self.spans) if seconds < span.end]
        return later[0] if later else len(self.spans) - 1


def from_simulation(plan: Plan, simulation: Simulation, held: Mapping[str, int]) -> Outline:
    """The outline of a plan that was run in virtual time; `held` are bytes that lay on the device before."""
    from core.planning.chart import stacked  # the planner is read after the first frame

    planned = [phase for phase in plan.phases if not phase.skipped]
    spans = tuple(
        Span(phase.phase, phase.label, one.begin, one.seconds, phase)
        for phase, one in zip(planned, simulation.phases, strict=True)
    )
    times, amounts = stacked(simulation.ledger, simulation.total_seconds)
    for name, size in held.items():  # the ledger knows changes only
        amounts[name] = [size + change for change in amounts.get(name, [0] * len(times))]
    return Outline(plan, spans, Layers(tuple(times), _ordered(amounts), simulation.total_seconds))


def from_plan(plan: Plan, held: Mapping[str, int]) -> Outline:
    """The outline of a plan alone; `held` are bytes that lie on the device before. Weights arrive evenly."""
    kept = {component.name: component.kept_bytes for component in plan.components}
    sizes = {component.name: component.bytes for component in plan.components}
    now = {name: min(size, sizes[name]) for name, size in held.items() if name in sizes}
    builder = Steps()
    spans: list[Span] = []
    for phase in plan.phases:
        if phase.skipped:
            continue
        begin = spans[-1].end if spans else 0.0
        spans.append(Span(phase.phase, phase.label, begin, phase.seconds, phase))
        wanted = {placement.component: placement.resident_bytes for placement in phase.placements}
        stays = {name: min(size, kept.get(name, 0)) for name, size in now.items() if name not in wanted}
        extra = {
            SLOTS: max((placement.slot_bytes for placement in phase.placements), default=0) * phase.slots,
            ACTIVATIONS: phase.activation_bytes + phase.scratch_bytes,
        }
        for step in range(_RAMP + 1):
            share = step / _RAMP
            arrived = {name: round(now.get(name, 0) * (1 - share) + size * share) for name, size in wanted.items()}
            builder.add(begin + phase.load_seconds * share, stays | arrived | extra)
        now = stays | {name: min(size, kept.get(name, 0)) for name, size in wanted.items()}
    return Outline(plan, tuple(spans), builder.layers(spans[-1].end if spans else 0.0))


class Steps:
    """Collects what lies on the device from one time to the next, and gives it out as layers."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._states: list[dict[str, int]] = []

    def add(self, seconds: float, held: Mapping[str, int]) -> None:
        """From here on this lies there. Times never go back."""
        state = {name: size for name, size in held.items() if size > 0}
        if self._times and seconds <= self._times[-1]:
            self._states[-1] = state
        elif not self._states or state != self._states[-1]:
            self._times.append(seconds)
            self._states.append(state)

    def layers(self, end: float) -> Layers:
        """All of it, in the order in which layers lie on one another."""
        names = dict.fromkeys(name for state in self._states for name in state)
        amounts = {name: [state.get(name, 0) for state in self._states] for name in names}
        return Layers(tuple(self._times), _ordered(amounts), end)


def layer_rank(name: str) -> tuple[int, str]:
    """Where a layer lies: components in the order in which a picture needs them, then what comes and goes."""
    if name in (SLOTS, ACTIVATIONS):
        return (len(_ORDER) + 1 + (name == ACTIVATIONS), name)
    if name == OTHERS:
        return (-1, name)
    return (next((place for place, start in enumerate(_ORDER) if name.startswith(start)), len(_ORDER)), name)


def _ordered(amounts: Mapping[str, Iterable[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(amounts[name]) for name in sorted(amounts, key=layer_rank)}
