"""Emulated cards for tests. Each ends with the module that asked for it, and its threads with it."""

from __future__ import annotations

import weakref
from typing import Any

from core.hardware.emulated import EmulatedAccelerator
from core.hardware.emulated_card import EmulatedCard

MIB = 2**20
_made: list[weakref.ref[EmulatedAccelerator]] = []


def emulated(**changes: Any) -> EmulatedAccelerator:
    """A small card, with these fields of EmulatedCard changed. Pageable memory is half as fast as pinned.

    Encodings are kept by the device's title: give one where others must not be found.
    """
    numbers = {
        "name": "card",
        "title": "card",
        "memory_bytes": 64 * MIB,
        "context_bytes": 2 * MIB,
        "headroom_bytes": 2 * MIB,
        "pinned_rate": 2e9,
        **changes,
    }
    return accelerator(EmulatedCard(**{"pageable_rate": numbers["pinned_rate"] / 2, **numbers}))


def accelerator(card: EmulatedCard) -> EmulatedAccelerator:
    """An emulated accelerator with these true numbers."""
    made = EmulatedAccelerator(card)
    _made.append(weakref.ref(made))
    return made


def close_all() -> None:
    """End the threads of all that were made so far."""
    while _made:
        card = _made.pop()()
        if card is not None:
            card.close()
