"""Device memory as the driver counts it: what the caching allocator takes for a model's weights and activations.

The rules are those of core.hardware.segments. A network's weights are allocated block by block in the order in which
they run, behind what lies outside of blocks, small ones together. They come first and stay; each phase's allocations
(core.models.profile: growth) come on top, may use what the phases before left free, and are given back.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from core.hardware.profile import HardwareProfile
from core.hardware.segments import block_bytes, is_shared, is_small, segment_bytes, worth
from core.messages import Phase
from core.models.profile import (
    ComponentProfile,
    ModelProfile,
    PhaseNeed,
    activation,
    evaluate,
    tiled_activation,
)
from core.planning.job import Job

# Slabs that are smaller share allocations of this size (core.residency.network): CUDA's allocator takes 20 MiB from the
# driver for anything from 1 to 10 MiB, which can leave the last of them without room, and exactly what is asked for
# above (rounded to 2 MiB).
ARENA_BYTES = 32 << 20
_OVERLAP = 0.25  # of tiles (diffusers' tile_overlap_factor)
# Of folded layers (core.residency.folding): one is computed while the next one arrives.
PASSING_SLOTS = 2


class Reserve:
    """Segments that an allocator took, by the free bytes at the end of each; nothing that is given back is joined."""

    def __init__(self) -> None:
        self.reserved = 0
        self._free: dict[bool, list[int]] = {True: [], False: []}  # of segments for small requests, and of others

    def take(self, size: int, count: int = 1) -> None:
        """Allocate for good, `count` times."""
        for _ in range(count):
            self._take(size)

    def copy(self) -> Reserve:
        """The same, to be changed."""
        other = Reserve()
        other.reserved, other._free = self.reserved, {small: list(free) for small, free in self._free.items()}
        return other

    def pass_through(self, sizes: Iterable[int]) -> None:
        """Allocate so many bytes each, all at once, and give them back: what was taken for them stays free."""
        before = {small: list(free) for small, free in self._free.items()}
        fresh = [(is_small(size), self._take(size)) for size in sizes]
        self._free = before
        for small, segment in fresh:
            if segment:
                insort(self._free[small], segment)

    def tiles(self, passes: Iterable[tuple[list[list[int]], int]], last: list[int]) -> None:
        """Passes one after the other, of each of which something is kept; then `last`, and all is given back.

        Args:
            passes: what each allocates, as in `pass_through`, and the bytes that it keeps.
        """
        after = self.copy()
        for groups, kept in passes:
            for sizes in groups:
                after.pass_through(sizes)
            after.take(kept)
        after.pass_through(last)
        # whatever was cut from them is joined again
        if after.reserved > self.reserved:
            insort(self._free[False], after.reserved - self.reserved)
        self.reserved = after.reserved

    def _take(self, size: int) -> int:
        """Bytes of the segment that had to be taken, 0 where there was a free block."""
        wanted, small = block_bytes(size), is_small(size)
        free = self._free[small]
        place = bisect_left(free, wanted)
        new = 0
        if place < len(free):
            room = free.pop(place)
        else:
            room = new = segment_bytes(size)
            self.reserved += new
        if worth(room - wanted, small=small):
            insort(free, room - wanted)
        return new


def overhead(job: Job, need: PhaseNeed, hardware: HardwareProfile, element_bytes: int, tile: int | None) -> int:
    """Bytes that the driver counts in a phase beside those of the model's weights, when all of them are on the device.

    Args:
        element_bytes: of a number as it is held and computed with.
        tile: edge of the VAE's tiles in latent positions, None for whole pictures.
    """
    known = _weights(job.model, element_bytes)
    kernel = attention_kernel(hardware)
    key = (need.label, job.width, job.height, job.frames, job.text_tokens, job.batch, tile, kernel)
    if key not in known.overheads:
        known.overheads[key] = _overhead(job, need, kernel, element_bytes, tile)
    return known.overheads[key]


def _overhead(job: Job, need: PhaseNeed, kernel: str, element_bytes: int, tile: int | None) -> int:
    weights = _weights(job.model, element_bytes)
    reserve = weights.reserve.copy()
    for phase in job.model.phases:
        for passes, last in allocations(job, phase, kernel, element_bytes, tile):
            if last:
                reserve.tiles(passes, last)
                continue
            for groups, _ in passes:
                for sizes in groups:
                    reserve.pass_through(sizes)
        if phase.label == need.label:
            break
    return reserve.reserved - weights.asked


Passes = list[tuple[list[list[int]], int]]
"""What passes one after the other allocate, in groups of which each is given back before the next, and what is kept."""


def allocations(
    job: Job, phase: PhaseNeed, kernel: str, element_bytes: int, tile: int | None
) -> Iterator[tuple[Passes, list[int]]]:
    """Of each component of a phase: its passes, and what is made of what they keep; nothing where they keep nothing.

    Args:
        kernel: see `attention_kernel`.
        element_bytes: of a number as it is computed with.
        tile: edge of the VAE's tiles in latent positions, None for whole pictures.
    """
    for name in phase.components:
        component = job.model.components[name]
        encode = phase.phase is Phase.IMAGE_ENCODE
        edge = tile if encode or phase.phase is Phase.DECODE else None
        scale, variables = job.batch * element_bytes / 2, job.variables(phase)
        if edge is not None and edge * edge < variables["A"]:
            passes = [
                (
                    list(_growth(component, at, kernel, None, scale, encode=encode)),
                    0 if encode else round(scale * evaluate(component.output, at)),
                )
                for at in _tiles(job, phase, edge)
            ]
            whole = round(scale * evaluate(component.output, variables))
            yield passes, [whole] if encode else [whole] * 3
        else:
            yield [(list(_growth(component, variables, kernel, None, scale, encode=encode)), 0)], []


def _tiles(job: Job, need: PhaseNeed, edge: int) -> Iterator[dict[str, float]]:
    """N, A and T of each tile, row by row, as diffusers' autoencoders cut them: those at the end are smaller."""
    variables = job.variables(need)
    height, width = (round(side * need.scale) // job.model.defaults.spatial for side in (job.height, job.width))
    stride = max(1, int(edge * (1 - _OVERLAP)))
    for top in range(0, height, stride):
        for left in range(0, width, stride):
            area = float(min(edge, height - top) * min(edge, width - left))
            yield {**variables, "A": area, "N": area * variables["N"] / variables["A"]}


def largest(
    component: ComponentProfile,
    variables: dict[str, float],
    kernel: str,
    tile: int | None,
    scale: float,
    *,
    encode: bool = False,
) -> int:
    """The largest allocation of a pass beside the weights; 0 where the profile does not tell them apart.

    Args:
        scale: what a pass takes for each byte of the profile.
        encode: a VAE's other direction.
    """
    if not (component.encode_growth if encode else component.growth):
        return 0
    growth = _growth(component, variables, kernel, tile, scale, encode=encode)
    return max((size for sizes in growth for size in sizes), default=0)


def slack(model: ModelProfile, element_bytes: int) -> int:
    """Bytes that segments take beyond a model's weights."""
    weights = _weights(model, element_bytes)
    return weights.reserve.reserved - weights.asked


def weight_bytes(model: ModelProfile, element_bytes: int) -> int:
    """Bytes of all of a model's weights in slabs."""
    return _weights(model, element_bytes).asked


def counted(hardware: HardwareProfile) -> bool:
    """Whether weights and activations come from a caching allocator. A processor has none; Apple's is another."""
    return hardware.vendor not in ("cpu", "apple")


def attention_kernel(hardware: HardwareProfile) -> str:
    """The kind of kernel that attention runs with, as core.models.profile.activation means it."""
    return "efficient" if {"flash", "efficient"} & set(hardware.attention) else "math"


def _growth(
    component: ComponentProfile,
    variables: dict[str, float],
    kernel: str,
    tile: int | None,
    scale: float,
    *,
    encode: bool,
) -> Iterator[list[int]]:
    """Bytes of the allocations for which a pass makes the allocator grow: those that share segments, then the others.

    Within a segment what was freed is joined, so that those which share one never take more than is alive at once; and
    when they are gone their segments serve the others. `scale` is what a pass takes for each byte of the profile.
    """
    at, sizes = variables, []
    if tile is not None and tile * tile < variables["A"]:
        area = float(tile * tile)
        at = {**variables, "A": area, "N": area * variables["N"] / variables["A"]}
        whole = tiled_activation(component, variables, tile, kernel=kernel, encode=encode)
        sizes.append(max(0.0, whole - activation(component, at, kernel=kernel, encode=encode)))
    every = component.encode_activation if encode else component.activation
    alive = evaluate(every, at)
    for count, polynomial in (component.encode_growth if encode else component.growth) or [(1, every)]:
        sizes += count * [max(0.0, evaluate(polynomial, at))]
    if kernel == "math":
        matrix = component.encode_attention_matrix if encode else component.attention_matrix
        sizes.append(max(0.0, evaluate(matrix, at)))
    asked = sorted((round(size * scale) for size in sizes), reverse=True)
    for small in (True, False):
        yield list(_up_to(alive * scale, (size for size in asked if is_shared(size) and is_small(size) == small)))
    yield [size for size in asked if not is_shared(size)]


def _up_to(limit: float, sizes: Iterable[int]) -> Iterator[int]:
    """Sizes until they are so many bytes together."""
    total = 0
    for size in sizes:
        if total >= limit:
            return
        total += size
        yield size


class _Weights(NamedTuple):
    """A model's weights in their segments, the bytes that they are, and what was found out of its phases.

    The model is kept, so that no other one gets its id meanwhile.
    """

    model: ModelProfile
    reserve: Reserve
    asked: int
    overheads: dict[tuple[object, ...], int]


_KEPT = 4
_known: OrderedDict[tuple[int, int], _Weights] = OrderedDict()


def _weights(model: ModelProfile, element_bytes: int) -> _Weights:
    key = (id(model), element_bytes)
    known = _known.get(key)
    if known is None:
        known = _known[key] = _placed(model, element_bytes)
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    return known


def _placed(model: ModelProfile, element_bytes: int) -> _Weights:
    reserve, asked = Reserve(), 0
    for component in model.components.values():
        arena = 0
        for part, count in [(component.rest, 1), *((component.kinds[kind], count) for kind, count in component.order)]:
            size = sum(-(-math.prod(tensor.shape) * element_bytes // 256) * 256 for tensor in part.tensors)
            asked += count * size
            for _ in range(count):
                if arena and arena + size > ARENA_BYTES:
                    reserve.take(arena)
                    arena = 0
                arena += size
        if arena:
            reserve.take(arena)
    return _Weights(model, reserve, asked, {})
