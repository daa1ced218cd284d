"""Calibrations that were kept, read without torch: plans made outside of the engine use what was measured here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from core import folders
from core.hardware.machine import Machine, detect
from core.hardware.match import best_profile
from core.hardware.profile import HardwareProfile, absurdity


class Kept(msgspec.Struct, frozen=True):
    """A file of the cache. `key` is everything that the profile depends on."""

    key: tuple[str, ...]
    profile: HardwareProfile


def folder() -> Path:
    """Where calibrations are kept."""
    return folders.cache() / "hardware"


def machine_key(machine: Machine) -> tuple[str, ...]:
    """What of a machine a calibration depends on."""
    return (machine.system, machine.processor, str(machine.cores), str(machine.memory_bytes))


def read(file: Path) -> Kept:
    """A kept calibration.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged or absurd; the text says how.
    """
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=Kept)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    problem = absurdity(kept.profile)
    if problem:
        raise ValueError(problem)
    return kept


def damaged() -> list[str]:
    """A sentence for each kept calibration that cannot be read, and is passed over: which, why, and what to do."""
    sentences = []
    for file in sorted(folder().glob("*.json")):
        try:
            read(file)
        except OSError as error:
            sentences.append(
                f"The calibration {file} cannot be read ({error.strerror}) and is ignored; change its permissions."
            )
        except ValueError as error:
            sentences.append(
                f"The calibration {file} is of no use ({error}) and is ignored; delete it, and run `residency "
                "calibrate` to measure again."
            )
    return sentences


def this_machine() -> HardwareProfile | None:
    """The profile to plan with here: the newest calibration of this machine's device, else what its data sheet says.

    A card goes before the processor. None where there is a card that nobody described or measured.
    """
    machine = detect()
    known = best_profile(machine)
    wanted = machine_key(machine)
    found = []
    for file in folder().glob("*.json"):
        try:
            kept = read(file)
            age = file.stat().st_mtime
        except (OSError, ValueError):
            continue  # `damaged` names it, and the engine will measure again
        fits = all(part in kept.key for part in wanted) and kept.profile.vendor != "emulated"
        if fits and (known is None or kept.profile.vendor == known.vendor):
            found.append((kept.profile.vendor != "cpu", age, kept.profile))
    return max(found, key=lambda entry: entry[:2])[2] if found else known
