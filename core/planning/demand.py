"""What one component asks of a machine in one job and one format: bytes of its blocks, seconds, activations."""

from __future__ import annotations

import msgspec

from core.hardware.profile import HardwareProfile
from core.messages import Phase
from core.models.profile import (
    BlockKind,
    ComponentProfile,
    PhaseNeed,
    Tensor,
    activation,
    evaluate,
    flops,
    tiled_activation,
)
from core.planning import policy, reserve
from core.planning.adapters import added
from core.planning.job import NOTHING_BESIDE, Job
from core.planning.quality import weighted
from core.planning.roofline import block_seconds
from core.precision.formats import FORMATS

# Kinds of blocks whose bytes differ by less are counted together (T5's first block also holds the position biases).
_ALIKE = 0.02
# diffusers tiles with an overlap of a quarter of an edge (AutoencoderKL.tile_overlap_factor), so each pixel of the
# inside is decoded 1 / (1 - 0.25)^2 times.
TILE_OVERLAP = 0.25
# The phases in which a VAE may work in tiles, both ways in the same ones.
TILED = (Phase.IMAGE_ENCODE, Phase.DECODE)
# What sampler, loop and progress take around a step, in a network's operations: 1.6 ms on a processor where one takes
# 13 microseconds (measured with the starter). On a card the host does it while kernels run.
_STEP_OPERATIONS = 120
# What reading a text takes around a text encoder (its tokenizer, the pipeline's code), in the same: 0.6 ms each time,
# 1 ms the first one (measured with the starter, as above). On a card it is host time, too.
_TEXT_OPERATIONS = 80
_MATRIX = 2  # dimensions of a layer's weight; a convolution's has more


class Blocks(msgspec.Struct, frozen=True):
    """`count` blocks of about one size, in bytes of one as held on the device."""

    kinds: tuple[str, ...]
    count: int
    bytes: int


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """A component in one format at a job's size.

    `blocks` are by falling size. `rest_bytes` lie outside of blocks and are always resident while it runs. `seconds` is
    one pass with everything resident, decoding included; `sequence` splits it by blocks in execution order, as (index
    into `blocks`, seconds), and what is left belongs to the rest. `folded_bytes` are off the device during the phase;
    `folding` of them come before each block of `sequence` in the first pass, through slots of `passing_bytes` in all.
    `activation_bytes` count `output_bytes`, what was computed in their place, and `pass_bytes`, what a pass of the
    network alone takes as the driver counts it. `waiting_bytes` is what a further call
    keeps at most while it waits between two blocks for others. `largest_bytes` is the largest allocation that cannot be
    done without (0 on a device that allows any): of a slab, of what lies outside, of scratch or of a tensor.
    """

    name: str
    format: str
    loss: float
    blocks: tuple[Blocks, ...]
    rest_bytes: int
    bytes: int  # with every block resident
    folded_bytes: int
    folding: tuple[int, ...] = ()
    passing_bytes: int = 0
    seconds: float
    sequence: tuple[tuple[int, float], ...] = ()
    scratch_bytes: int
    activation_bytes: int
    output_bytes: int = 0
    pass_bytes: int = 0
    waiting_bytes: int = 0
    largest_bytes: int = 0
    streams: bool
    resident_blocks: int | None = None  # so many, where the person says how many


def compute_format(hardware: HardwareProfile) -> str:
    """What networks compute in: F32 on a CPU (and an emulated card), else BF16, or F16 where there is none."""
    if hardware.vendor in ("cpu", "emulated"):  # an emulated card's arithmetic is the CPU's
        return "F32"
    return "BF16" if "BF16" in hardware.matmul_rate else "F16"


def demand(
    name: str,
    component: ComponentProfile,
    need: PhaseNeed,
    job: Job,
    hardware: HardwareProfile,
    wanted: str,
    *,
    fold: bool = False,
    tile: int | None = None,
) -> Demand:
    """What a component needs in a phase when it is held in a format.

    Args:
        wanted: the format; tensors that cannot take it get the one that core.planning.policy says.
        fold: leave modulation weights off the device (their outputs are computed once per schedule).
        tile: edge of a VAE's tile in latent positions, None where it runs whole.
    """
    compute = compute_format(hardware)
    variables = job.variables(need)
    repeat = 1.0
    if tile is not None and need.phase in TILED and tile * tile < variables["A"]:
        repeat = 1 / (1 - TILE_OVERLAP) ** 2
    counts: dict[str, int] = {}
    for kind, count in component.order:
        counts[kind] = counts.get(kind, 0) + count
    beside = job.adapters.get(name, NOTHING_BESIDE)
    adapters, more = added(component, beside, fold), (1 + beside.share) * _direction(component, need, variables)
    sizes, each, gone = {}, {}, {}
    for kind in counts:
        held, gone[kind] = _held(component.kinds[kind], wanted, component.source_format, compute, fold)
        sizes[kind] = held + adapters.kinds.get(kind, 0)
        one = _seconds(component.kinds[kind], held, wanted, component, variables, hardware, repeat) * more
        each[kind] = one * job.batch
    rest_bytes, away = _held(component.rest, wanted, component.source_format, compute, fold)
    away += adapters.folded
    folded = away + sum(gone[kind] * count for kind, count in counts.items())
    outside = _seconds(component.rest, rest_bytes, wanted, component, variables, hardware, repeat) * job.batch * more
    rest_bytes += adapters.rest
    blocks = grouped(sizes, counts)
    place = {kind: index for index, part in enumerate(blocks) for kind in part.kinds}
    order = [kind for kind, count in component.order for _ in range(count)]
    sequence = tuple([(place[kind], each[kind]) for kind in order])
    passing = 0
    if folded:  # what lies beside a layer is not told from what lies beside its block's others
        parts = (component.rest, *(component.kinds[kind] for kind in counts))
        largest = max(_largest_folded(part, wanted, component.source_format, compute) for part in parts)
        passing = reserve.PASSING_SLOTS * (largest + max(beside.folded_blocks, default=0))
    every = [(tensor, 1) for tensor in component.rest.tensors]
    every += [(tensor, count) for kind, count in counts.items() for tensor in component.kinds[kind].tensors]
    # what folded layers make of each pass's vector stays in their place
    rows = sum(
        tensor.shape[0] * count for tensor, count in every if tensor.role == "modulation" and len(tensor.shape) > 1
    )
    wide = 4 if compute == "F32" else 2
    kept = rows * job.passes(need) * job.batch * wide if fold else 0
    if hardware.vendor == "cpu" and need.passes == "steps":
        outside += _STEP_OPERATIONS * hardware.operation_seconds
    if need.phase is Phase.ENCODE:
        outside += _TEXT_OPERATIONS * hardware.operation_seconds
    if hardware.vendor == "cpu" and need.passes == "once" and not job.warm.get(name):
        outside += _new_shapes(component, variables) * hardware.first_seconds
    alone, waiting = _activation(component, need, job, hardware, tile)
    computing = alone + round((variables["N"] + variables["T"]) * beside.width * wide) * job.batch
    if need.phase is Phase.DENOISE:  # what a control network makes stays until the network that it steers has run
        others = [job.model.components[other] for other in need.components if other != name]
        computing += round(sum(evaluate(other.output, variables) for other in others) * wide / 2) * job.batch
    scratch = _scratch(every, wanted, component.source_format, wide)
    largest = 0
    if hardware.largest_allocation_bytes is not None:
        tensor = largest_tensor(component, need, job, hardware, tile)
        largest = max(0, *sizes.values(), rest_bytes, scratch, tensor, passing)
    pace = job.pace.get(need.label, 1.0)
    outside, sequence = outside * pace, tuple((index, one * pace) for index, one in sequence)
    return Demand(
        name=name,
        format=wanted,
        loss=policy.loss(
            weighted(component, job.model.family, need.phase), wanted, component.source_format, need.phase.value
        ),
        blocks=blocks,
        rest_bytes=rest_bytes,
        bytes=rest_bytes + sum(part.bytes * part.count for part in blocks),
        folded_bytes=folded,
        folding=tuple([gone[kind] + (0 if n else away) for n, kind in enumerate(order)]) if folded else (),
        passing_bytes=passing,
        seconds=outside + sum(one for _, one in sequence),
        sequence=sequence,
        scratch_bytes=scratch,
        activation_bytes=computing + kept,
        output_bytes=kept,
        pass_bytes=alone,
        waiting_bytes=waiting,
        largest_bytes=largest,
        streams=need.phase not in (Phase.IMAGE_ENCODE, Phase.DECODE) and bool(counts) and not hardware.unified,
    )


def _direction(component: ComponentProfile, need: PhaseNeed, variables: dict[str, float]) -> float:
    """Seconds of a pass by those of the direction whose kernels are counted: a VAE's encoder by its decoder.

    Both are convolutions of the same widths, so that they take as long as their operations say.
    """
    counted = flops(component, variables)
    if need.phase is not Phase.IMAGE_ENCODE or not component.encode_flops or not counted:
        return 1.0
    return evaluate(component.encode_flops, variables) / counted


def _new_shapes(component: ComponentProfile, variables: dict[str, float]) -> float:
    """Convolutions that a pass makes, those of blocks that are alike once: they have the same shapes.

    What lies outside of a VAE's blocks has tensors of both directions, but only the products of one.
    """
    total = 0.0
    for kind in (component.rest, *component.kinds.values()):
        products = sum(evaluate(group.count, variables) for group in kind.kernels if group.kind == "product")
        total += min(products, sum(len(tensor.shape) > _MATRIX for tensor in kind.tensors))
    return total


def _held(kind: BlockKind, wanted: str, source: str, compute: str, fold: bool) -> tuple[int, int]:
    """(bytes on the device, bytes folded away) of one block; tensors start at 256-byte offsets."""
    held = away = 0
    for tensor in kind.tensors:
        size = _held_bytes(tensor, wanted, source, compute)
        if fold and tensor.role == "modulation":
            away += size
        else:
            held += size
    return held, away


def _largest_folded(kind: BlockKind, wanted: str, source: str, compute: str) -> int:
    """Bytes of the largest layer that can be folded away."""
    layers: dict[str, int] = {}
    for tensor in kind.tensors:
        if tensor.role == "modulation":
            layer = tensor.name.rpartition(".")[0]
            layers[layer] = layers.get(layer, 0) + _held_bytes(tensor, wanted, source, compute)
    return max(layers.values(), default=0)


def _held_bytes(tensor: Tensor, wanted: str, source: str, compute: str) -> int:
    name = policy.tensor_format(tensor, wanted, source)
    if not FORMATS[name].held_packed:
        name = compute  # what is not packed is held as it computes
    return -(-FORMATS[name].bytes_of(tensor.shape) // 256) * 256


def _seconds(
    kind: BlockKind,
    size: int,
    wanted: str,
    component: ComponentProfile,
    variables: dict[str, float],
    hardware: HardwareProfile,
    repeat: float,
) -> float:
    """Seconds of one block: its kernels, as often as tiles overlap, and the decoding of packed tensors."""
    compute = compute_format(hardware)
    seconds = block_seconds(kind, size, variables, hardware, compute) * repeat
    for name, elements in _packed(kind.tensors, wanted, component.source_format).items():
        seconds += 2 * elements / decode_rate(hardware, name)
    return seconds


def _packed(tensors: list[Tensor], wanted: str, source: str) -> dict[str, int]:
    """Elements by packed format; embeddings are left out, since only the rows of the text are decoded."""
    elements: dict[str, int] = {}
    for tensor in tensors:
        name = policy.tensor_format(tensor, wanted, source)
        if FORMATS[name].held_packed and tensor.role != "embedding":
            elements[name] = elements.get(name, 0) + _count(tensor)
    return elements


def decode_rate(hardware: HardwareProfile, name: str) -> float:
    """Bytes of 16-bit output per second; where not measured, half of what the memory traffic alone would allow."""
    known = hardware.decode_rate.get(name)
    if known:
        return known
    stored = FORMATS[name].bits / 16
    return 0.5 * hardware.memory_bandwidth / (1 + stored)


def _scratch(tensors: list[tuple[Tensor, int]], wanted: str, source: str, wide: int) -> int:
    """The one buffer that packed tensors are decoded into: the largest of them at `wide` bytes a number."""
    packed = [
        wide * _count(tensor)
        for tensor, _ in tensors
        if tensor.role != "embedding" and FORMATS[policy.tensor_format(tensor, wanted, source)].held_packed
    ]
    return max(packed, default=0)


def _activation(
    component: ComponentProfile, need: PhaseNeed, job: Job, hardware: HardwareProfile, tile: int | None
) -> tuple[int, int]:
    """(peak bytes beside the weights, as the driver counts them; the most that a call which waits can keep alive).

    An allocator keeps what was freed as long as there is room. Where there is none for all of it, it gives back, and
    what counts is what is alive at once. A call that waits between two blocks keeps less than it has at its peak; how
    much less no profile says.
    """
    variables, compute, kernel = job.variables(need), compute_format(hardware), reserve.attention_kernel(hardware)
    width, encode = _width(component, compute), need.phase is Phase.IMAGE_ENCODE
    alive = activation(component, variables, kernel=kernel, encode=encode)
    if tile is not None and need.phase in TILED:
        alive = tiled_activation(component, variables, tile, kernel=kernel, encode=encode)
    alive = alive * job.batch * width // 2
    if not reserve.counted(hardware):
        return alive, alive
    element = 4 if compute == "F32" else 2
    beside = max(alive, reserve.overhead(job, need, hardware, element, tile))
    held = reserve.weight_bytes(job.model, element)
    room = hardware.memory_bytes - hardware.context_bytes - hardware.headroom_bytes
    return (beside, beside) if held + beside <= room else (alive + reserve.slack(job.model, element), alive)


def largest_tensor(
    component: ComponentProfile, need: PhaseNeed, job: Job, hardware: HardwareProfile, tile: int | None = None
) -> int:
    """Bytes of the largest tensor of a pass; 0 where the profile does not tell tensors apart."""
    scale = job.batch * _width(component, compute_format(hardware)) / 2
    encode, kernel = need.phase is Phase.IMAGE_ENCODE, reserve.attention_kernel(hardware)
    tile = tile if need.phase in TILED else None
    return reserve.largest(component, job.variables(need), kernel, tile, scale, encode=encode)


def _width(component: ComponentProfile, compute: str) -> int:
    """Bytes of a number that it computes with."""
    return 4 if compute == "F32" or (component.force_upcast and compute == "F16") else 2


def grouped(sizes: dict[str, int], counts: dict[str, int]) -> tuple[Blocks, ...]:
    """Kinds by falling size, those of about one size as one; a group counts every block at its largest size."""
    groups: list[Blocks] = []
    for kind in sorted(sizes, key=lambda kind: -sizes[kind]):
        last = groups[-1] if groups else None
        if last is not None and sizes[kind] >= last.bytes * (1 - _ALIKE):
            groups[-1] = Blocks((*last.kinds, kind), last.count + counts[kind], last.bytes)
        else:
            groups.append(Blocks((kind,), counts[kind], sizes[kind]))
    return tuple(groups)


def _count(tensor: Tensor) -> int:
    product = 1
    for extent in tensor.shape:
        product *= extent
    return product
