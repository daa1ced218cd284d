"""Which formats a component may take, which format each of its tensors then gets, and what that costs in quality.

The rules are those the field agrees on: one-dimensional tensors and norms keep their source, in- and output layers and
convolutions 16 bit, embeddings at least Q6_K, modulation at least Q8_0 unless it is folded, CLIP and VAE at 16 bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from core.models.profile import ComponentProfile, Tensor
from core.precision.formats import FORMATS, fitting

# The ladder that plans climb, best first. Q3_K only on request; Q2_K never by itself.
LADDER = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
F8 = "F8_E4M3"
_FINER = {"embedding": "Q6_K", "modulation": "Q8_0"}  # what these roles take at least
_MATRIX = 2  # dimensions of a layer's weight

# How much one unit of squared relative weight error of a component shows in the result, against the transformer's 1.
# Assumed from practice: a text encoder at Q8_0 to Q5_K is called nearly free, a VAE's error is seen directly.
_WEIGHT = {"encode": 0.05, "denoise": 1.0, "decode": 1.0}


def sixteen_bit(source: str) -> str:
    """What "unquantized" means for a component: its source, or BF16 where the file keeps F32 or what is not held."""
    return source if source in FORMATS and source != "F32" else "BF16"


def as_filed(source: str) -> bool:
    """Whether what most of a component is stored in is held as it is, and decoded where it is multiplied."""
    return source in FORMATS and FORMATS[source].held_packed


def allowed(component: ComponentProfile, role: str) -> tuple[str, ...]:
    """The formats a component may take, best first. `role` is the phase it belongs to (encode, denoise, decode).

    What is stored in F8 is never held in more bits: nothing would be won. F8 is not made of anything finer: Q6_K is
    smaller and has the smaller error, and only a card that multiplies in F8 would be the faster with it.
    """
    source = sixteen_bit(component.source_format)
    if role == "decode" or component.class_name.startswith("CLIP") or "UNet" in component.class_name:
        return (source,)  # VAE and CLIP break easily; a UNet is mostly convolutions, whose rows fit no packed format
    if FORMATS[source].packed:
        return (source,)
    return (source, *(name for name in LADDER if FORMATS[name].bits < FORMATS[source].bits))


def tensor_format(tensor: Tensor, wanted: str, source: str) -> str:
    """The format of one tensor when its component is held in `wanted`.

    What its file has packed stays so, and what it has in F8 takes no more bits, unless all of such a component is
    wanted decoded (in F32, F16 or BF16).
    """
    return _format(tensor.role, tensor.shape, tensor.stored, wanted, source)


@functools.cache  # asked for every tensor of every choice, of which few differ in role and shape
def _format(role: str, shape: tuple[int, ...], stored: str, wanted: str, source: str) -> str:
    if not FORMATS[wanted].held_packed and as_filed(source):
        return wanted
    if stored and FORMATS[stored].packed and (role == "conv" or not FORMATS[stored].takes(shape)):
        return "F16"  # kernels and rows that blocks go across (core.models.gguf_header.SHAPE_KEY) are decoded when read
    if stored and (FORMATS[stored].packed or FORMATS[source].packed):
        return sixteen_bit(stored)
    if FORMATS[sixteen_bit(source)].packed:
        source = "BF16"  # where nothing says what the rest of a packed component is stored in
    own = sixteen_bit(stored or source)
    if own == F8:
        return _of_f8(role, shape, wanted, source)
    if role in ("keep", "io", "conv") or not FORMATS[wanted].held_packed:
        return own if FORMATS[wanted].held_packed else wanted
    return own if wanted == source else _coarser(role, shape, wanted, own)


def _of_f8(role: str, shape: tuple[int, ...], wanted: str, source: str) -> str:
    """What becomes of a tensor in F8: only matrices are decoded where they are multiplied."""
    if role not in ("linear", "embedding", "modulation", "io") or len(shape) != _MATRIX:
        return "BF16"
    if role == "io" or wanted == source or not FORMATS[wanted].packed:
        return F8
    coarser = _coarser(role, shape, wanted, F8)
    return coarser if FORMATS[coarser].bits < FORMATS[F8].bits else F8


def _coarser(role: str, shape: tuple[int, ...], wanted: str, own: str) -> str:
    """The packed format of a matrix in blocks: the wanted one, or what its role takes at least."""
    least = _FINER.get(role)
    if least is not None and FORMATS[least].rel_rmse < FORMATS[wanted].rel_rmse:
        wanted = least
    return fitting(wanted, shape, own)


def loss(tensors: Sequence[tuple[Tensor, float]], wanted: str, source: str, role: str) -> float:
    """Predicted loss of holding tensors in a format: mean of squared relative errors, weighted by size and sensitivity.

    Against the source, so an unquantized component loses nothing, nor one whose file has it packed.

    Args:
        tensors: each with its count, or with what it counts for (core.planning.quality).
    """
    if FORMATS[sixteen_bit(source)].packed:
        return 0.0
    elements: dict[str, float] = {}
    total = 0.0
    for tensor, count in tensors:
        name = tensor_format(tensor, wanted, source)
        some = count * math.prod(tensor.shape)
        total += some
        if FORMATS[name].bits < FORMATS[sixteen_bit(tensor.stored or source)].bits:
            elements[name] = elements.get(name, 0) + some
    error = sum(some * FORMATS[name].rel_rmse ** 2 for name, some in elements.items())
    return _WEIGHT.get(role, 1.0) * error / total if total else 0.0
