"""The sentence for what fits no device memory: the smallest budget that works, its cause, and what would help."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import UserError
from core.planning import reserve
from core.planning.choices import smallest_budget
from core.planning.job import Job
from core.planning.options import Options
from core.sizes import in_words

# Edges that are tried, as shares of the wanted ones.
_SMALLER = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4)
# So many times less memory with another kernel is worth saying.
_MUCH = 2


def refusal(job: Job, hardware: HardwareProfile, options: Options, budget: int) -> UserError:
    """What to tell of a job that no plan fits into so many bytes.

    Raises:
        UserError: the device does not allow allocations as large as every plan needs.
    """
    smallest = smallest_budget(job, hardware, options)
    frames = f" with {job.frames} frames" if job.frames > 1 else ""
    words = (
        f"{job.model.name} at {job.width}x{job.height}{frames} needs at least {in_words(smallest)} of device memory "
        f"and {in_words(budget)} may be used; "
    )
    if reserve.attention_kernel(hardware) == "math":
        able = msgspec.structs.replace(hardware, attention=("efficient", *hardware.attention))
        less = _least(job, able, options)
        if less is not None and less * _MUCH < smallest:
            words += (
                f"{hardware.title} has no memory-efficient attention, so that every position is multiplied with every "
                f"other at once (with it, {in_words(less)} would do): "
            )
    helps = []
    spare = hardware.memory_bytes - hardware.context_bytes - smallest
    headroom = hardware.headroom_bytes if options.headroom_bytes is None else options.headroom_bytes
    if 0 <= spare < headroom:
        helps.append(f"leave at most {in_words(spare)} to other programs with --headroom (now {in_words(headroom)})")
    fewer = next((one for one in _fewer(job) if _fits(one, hardware, options, budget)), None)
    if fewer is not None:
        helps.append(f"make at most {fewer.frames} frames")
    smaller = next((one for one in _smaller(job) if _fits(one, hardware, options, budget)), None)
    if smaller is not None:
        helps.append(f"make it at {smaller.width}x{smaller.height}")
    elif fewer is None and job.model.defaults.positions_per_second is None:
        both = next(
            (two for one in _fewer(job) for two in _smaller(one) if _fits(two, hardware, options, budget)), None
        )
        least = "use a smaller size and fewer frames" if job.frames > 1 else "use a smaller size"
        helps.append(f"make {both.frames} frames at {both.width}x{both.height}" if both else least)
    return UserError(words + ", ".join([*helps, "close other programs"]) + " or give more with --vram.")


def _least(job: Job, hardware: HardwareProfile, options: Options) -> int | None:
    try:
        return smallest_budget(job, hardware, options)
    except UserError:
        return None


def _fits(job: Job, hardware: HardwareProfile, options: Options, budget: int) -> bool:
    least = _least(job, hardware, options)
    return least is not None and least <= budget


def _fewer(job: Job) -> Iterator[Job]:
    """The job with fewer frames, by falling number: as many as its latents have, halved again and again."""
    step, frames = job.model.defaults.temporal, job.frames
    while frames > 1:
        frames = (frames - 1) // 2 // step * step + 1
        yield msgspec.structs.replace(job, frames=frames)


def _smaller(job: Job) -> Iterator[Job]:
    """The job at smaller sizes of about the same shape."""
    if job.model.defaults.positions_per_second is not None:
        return
    multiple = job.model.defaults.size_multiple
    for share in _SMALLER:
        edges = [max(multiple, round(edge * share / multiple) * multiple) for edge in (job.width, job.height)]
        yield msgspec.structs.replace(job, width=edges[0], height=edges[1])
