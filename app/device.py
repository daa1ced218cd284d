"""What is on the device, by component: added up from the engine's ledger."""

from __future__ import annotations

from app.shown import Component
from core.messages import LedgerRecord, Result

Components = dict[str, Component]


def record(components: Components, event: LedgerRecord) -> None:
    """Take in one arrival or departure."""
    old = components.get(event.component, Component(event.component, event.format, 0))
    resident = max(0, old.resident + event.change)
    components[event.component] = Component(
        event.component, event.format or old.format, max(old.bytes, resident), resident
    )


def learn(components: Components, result: Result) -> None:
    """Take over what a finished picture says of its components' formats and bytes."""
    for name, use in result.components.items():
        resident = components[name].resident if name in components else 0
        components[name] = Component(name, use.format, use.bytes, resident)


def emptied(components: Components) -> Components:
    """The same components with nothing on the device: its engine is gone."""
    return {name: Component(name, known.format, known.bytes, 0) for name, known in components.items()}
