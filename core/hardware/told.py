"""A profile on its way from the engine to the window: messages lie below this room and carry it as bytes. No torch."""

from __future__ import annotations

import msgspec

from core.hardware.profile import HardwareProfile, absurdity


def tell(profile: HardwareProfile) -> bytes:
    """A profile as `core.messages.Ready` carries it."""
    return msgspec.msgpack.encode(profile)


def heard(told: bytes) -> HardwareProfile | None:
    """The profile that was told; None where none was, or an engine of another version told one that makes no sense."""
    try:
        profile = msgspec.msgpack.decode(told, type=HardwareProfile)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return None if absurdity(profile) else profile
