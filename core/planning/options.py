"""What a person or the engine fixes about a plan, and the budget that follows from it."""

from __future__ import annotations

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import AS_PLANNED

# The preference in the middle takes the best quality within so much of the fastest plan's expected seconds.
_MIDDLE_TOLERANCE = 0.15
UNFELT_SECONDS = 0.1  # "the limit for having the user feel that the system is reacting instantaneously" (Nielsen 1993)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the person or the engine fixes. None leaves it to the planner.

    `formats`, `blocks` (how many are resident) and `keep` (stays between phases and jobs, or leaves) are by component.
    `slots` are device buffers for streamed blocks; with `more_slots` a third one is taken where it is worth it.
    `streaming` and `packing` say what the engine can do; `tiles` is "auto", "off" or an edge in latent positions.
    `prefer` is 0 (fastest) to 1 (best quality). With `lockstep` several calls may go through each streamed block
    together; for it this job may end later than alone, by a share of `latency`. `together` says that all companions of
    the job are denoised with it, which has been decided. With `ahead` a phase's weights may come
    while the phases before it compute.
    """

    prefer: float = 0.5
    formats: dict[str, str] = {}
    slots: int = 2
    more_slots: bool = True
    fold: bool | None = None
    tiles: str = "auto"
    blocks: dict[str, int] = {}
    keep: dict[str, bool] = {}
    streaming: bool = True
    packing: bool = True
    headroom_bytes: int | None = None
    lockstep: bool = True
    latency: float = AS_PLANNED.latency
    together: bool = False
    ahead: bool = True


DEFAULT = Options()


def engine_for(hardware: HardwareProfile) -> Options:
    """What the engine does on a machine of this kind; torch drives a processor and Apple's chips without a link."""
    return engine_on(own_memory=hardware.vendor not in ("cpu", "apple"))


def engine_on(*, own_memory: bool) -> Options:
    """What the engine does on a device; one that shares the host's memory has nothing to copy, pack or fold."""
    if own_memory:
        return DEFAULT
    return msgspec.structs.replace(DEFAULT, streaming=False, packing=False, fold=False, lockstep=False, ahead=False)


def budget_of(hardware: HardwareProfile, options: Options = DEFAULT) -> int:
    """Bytes of device memory that a job may use: the card's, less the driver's context and the headroom."""
    headroom = hardware.headroom_bytes if options.headroom_bytes is None else options.headroom_bytes
    return hardware.memory_bytes - hardware.context_bytes - headroom


def slowest_good(fastest: float, prefer: float) -> float:
    """How long a better plan may take, in seconds: at 0 as long as the fastest, at 0.5 15 % longer, at 1 any time.

    What nobody feels is never worth quality, unless speed is all that counts.
    """
    if prefer <= 0:
        return fastest
    if prefer >= 1:
        return float("inf")
    return fastest + max(fastest * _MIDDLE_TOLERANCE * prefer / (1 - prefer), UNFELT_SECONDS)
