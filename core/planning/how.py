"""What a person fixes about a request (core.messages.How), joined with what runs it: options to plan with.

What does not exist or cannot be done yet is refused here, in one sentence, before anything is loaded.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TypedDict

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import ESTIMATES, OFFLOAD, How, Phase, UserError
from core.models.profile import ComponentProfile, ModelProfile
from core.planning.demand import compute_format
from core.planning.options import DEFAULT, Options
from core.planning.policy import sixteen_bit
from core.precision.formats import FORMATS

RESIDENT, STREAMED = "resident", "streamed"
LEAST_SLOTS, MOST_SLOTS = 2, 8
_LEAST_TILE = 4  # latent positions of an edge; less is all overlap


def options_of(
    how: How, model: ModelProfile, hardware: HardwareProfile | None = None, able: Options = DEFAULT
) -> Options:
    """The options that a person's choice means for a model on a machine.

    Args:
        hardware: None where it is not known yet; what depends on it is then checked later.
        able: what can be done: all that planning knows, or core.planning.options.engine_on.

    Raises:
        UserError: a component, format or number does not exist, or `able` cannot do it yet.
    """
    for name in (*how.formats, *how.residency):
        if name not in model.components:
            raise UserError(f"{model.name} has no component called {name}; {_nearest(name, model.components)}")
    if not (math.isfinite(how.prefer) and 0 <= how.prefer <= 1):
        raise UserError(f"A preference of {how.prefer:g} is not possible; give 0 (fastest) to 1 (best quality).")
    if how.estimate not in ESTIMATES:
        raise UserError(f"There is no estimate called {how.estimate}; choose formula or dryrun.")
    if not (math.isfinite(how.latency) and how.latency >= 0):
        raise UserError(f"A latency of {how.latency:g} is not possible; give 0 or more, where 0.2 is a fifth later.")
    if how.headroom_bytes is not None and how.headroom_bytes < 0:
        raise UserError(f"A headroom of {how.headroom_bytes} bytes is not possible; give 0 or more.")
    return msgspec.structs.replace(
        able,
        prefer=how.prefer,
        formats={name: _format(name, wanted, model, hardware, able) for name, wanted in how.formats.items()},
        slots=_slots(how, hardware, able),
        more_slots=how.slots is None,
        fold=able.fold if how.fold else False,
        tiles=_tiles(how.tile, model, able),
        headroom_bytes=how.headroom_bytes,
        lockstep=able.lockstep and how.lockstep,
        latency=how.latency,
        **_placed(how, model, hardware, able),
    )


def _format(name: str, wanted: str, model: ModelProfile, hardware: HardwareProfile | None, able: Options) -> str:
    wanted = wanted.upper()
    if wanted not in FORMATS:
        raise UserError(f"There is no format called {wanted}; {_nearest(wanted, FORMATS)}")
    source = sixteen_bit(model.components[name].source_format)
    if FORMATS[source].packed and wanted != source:
        raise UserError(
            f"The {name} is packed in its file, mostly as {source}, and is held as it is; leave its format away, or "
            "take a model that is not packed."
        )
    if FORMATS[source].held_packed and FORMATS[wanted].packed and FORMATS[wanted].bits >= FORMATS[source].bits:
        raise UserError(
            f"The {name} is stored in {source}, and {wanted} would take more memory and win nothing; give {source} or "
            "a smaller format such as Q6_K, or leave it to the planner."
        )
    if FORMATS[wanted].held_packed:
        if not able.packing:
            raise UserError(
                f"The engine cannot hold packed weights such as {wanted} yet; leave the format of the {name} to it."
            )
        return wanted
    if hardware is not None and wanted not in (source, computing := compute_format(hardware)):
        raise UserError(
            f"Weights that are not packed are held as the device computes, and that is {computing} here: give "
            f"{computing} or a packed format for the {name}, or leave its format to the planner."
        )
    return wanted


def _slots(how: How, hardware: HardwareProfile | None, able: Options) -> int:
    if how.slots is None:
        return able.slots
    if not LEAST_SLOTS <= how.slots <= MOST_SLOTS:
        raise UserError(f"{how.slots} slots are not possible; give {LEAST_SLOTS} to {MOST_SLOTS}.")
    if hardware is not None and hardware.unified:
        raise UserError(
            f"{hardware.title} computes in the host's own memory, so there is nothing to stream over and there are no "
            "slots to count; leave their number away."
        )
    if not able.streaming:
        raise UserError("The engine cannot stream blocks yet, so there are no slots to count; leave their number away.")
    return how.slots


def _tiles(tile: str, model: ModelProfile, able: Options) -> str:
    """`auto`, `off` or an edge in latent positions."""
    if tile in ("auto", "off"):
        return able.tiles if tile == "auto" else tile
    spatial = model.defaults.spatial
    if not (tile.isascii() and tile.isdigit() and len(tile) < 7) or int(tile) < _LEAST_TILE * spatial:
        raise UserError(f"A tile of {tile} is not possible; give auto, off or pixels such as 512.")
    if able.tiles == "off":
        raise UserError("The engine cannot work in tiles yet; leave their size away.")
    return str(int(tile) // spatial)


class _Places(TypedDict):
    """Fields of Options."""

    blocks: dict[str, int]
    keep: dict[str, bool]


def _placed(how: How, model: ModelProfile, hardware: HardwareProfile | None, able: Options) -> _Places:
    """What is said about blocks, and about what stays between phases."""
    roles = {name: need.phase for need in model.phases for name in need.components}
    counts = {name: sum(count for _, count in model.components[name].order) for name in roles}
    blocks: dict[str, int] = {}
    keep: dict[str, bool] = {}
    if how.offload and how.offload not in OFFLOAD:
        raise UserError(f"There is no way to offload called {how.offload}; choose one of {', '.join(OFFLOAD)}.")
    if how.offload == "stream":
        blocks = {name: 0 for name, phase in roles.items() if phase is Phase.DENOISE}
    elif how.offload:
        blocks = dict(counts)
        leaves = {"none": (), "encoder": (Phase.ENCODE,)}.get(how.offload, tuple(Phase))
        keep = {name: phase not in leaves for name, phase in roles.items()}
    for name, value in how.residency.items():
        blocks[name] = _count(name, value, counts.get(name, 0), model)
    for name, count in blocks.items():
        if count < counts.get(name, 0) or how.residency.get(name) == STREAMED:
            _check_streams(name, model.components[name], roles.get(name), hardware, able)
    return {"blocks": blocks, "keep": keep}


def _count(name: str, value: str, blocks: int, model: ModelProfile) -> int:
    """How many blocks are resident."""
    if value == RESIDENT:
        return blocks
    if value == STREAMED:
        return 0
    if not (value.isascii() and value.isdigit() and len(value) < 7):
        raise UserError(f"A residency of {value} is not possible; give resident, streamed or a number of blocks.")
    if int(value) > blocks:
        raise UserError(
            f"{value} blocks of the {name} cannot be resident: that of {model.name} has {blocks or 'none'}."
        )
    return int(value)


def _check_streams(
    name: str, component: ComponentProfile, role: Phase | None, hardware: HardwareProfile | None, able: Options
) -> None:
    """Raise UserError where a component's blocks cannot be streamed."""
    if role is Phase.DECODE or not component.order:
        raise UserError(f"The {name} has no blocks that could be streamed; it is always resident while it runs.")
    if hardware is not None and hardware.unified:
        raise UserError(
            f"{hardware.title} computes in the host's own memory, so there is nothing to stream the {name} over; "
            "leave it to the planner."
        )
    if not able.streaming:
        raise UserError(f"The engine cannot stream blocks yet; let the {name} be resident, or leave it to the planner.")


def _nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(names)}."
