"""What a person or the engine fixes about a plan, and the budget that follows from it."""

from __future__ import annotations

import msgspec

from core.hardware.profile import HardwareProfile

# The preference in the middle takes the best quality within so much of the fastest plan's expected seconds.
_MIDDLE_TOLERANCE = 0.15


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the person or the engine fixes. None leaves it to the planner.

    `formats`, `blocks` (how many are resident) and `keep` (stays between phases and jobs, or leaves) are by component.
    `streaming` and `packing` say what the engine can do; `tiles` is "auto", "off" or an edge in latent positions.
    `prefer` is 0 (fastest) to 1 (best quality).
    """

    prefer: float = 0.5
    formats: dict[str, str] = {}
    slots: int = 2
    fold: bool | None = None
    tiles: str = "auto"
    blocks: dict[str, int] = {}
    keep: dict[str, bool] = {}
    streaming: bool = True
    packing: bool = True
    headroom_bytes: int | None = None


DEFAULT = Options()
# What the engine does today: components whole, in the precision that they compute in, the VAE whole.
ENGINE = Options(streaming=False, packing=False, fold=False, tiles="off", prefer=0.0)


def budget_of(hardware: HardwareProfile, options: Options = DEFAULT) -> int:
    """Bytes of device memory that a job may use: the card's, less the driver's context and the headroom."""
    headroom = hardware.headroom_bytes if options.headroom_bytes is None else options.headroom_bytes
    return hardware.memory_bytes - hardware.context_bytes - headroom


def tolerance(prefer: float) -> float:
    """How much slower than the fastest a better plan may be: 0 at 0, 15 % at 0.5, without limit at 1."""
    return _MIDDLE_TOLERANCE * prefer / (1 - prefer) if prefer < 1 else float("inf")
