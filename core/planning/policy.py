"""Which formats a component may take, which format each of its tensors then gets, and what that costs in quality.

The rules are those the field agrees on: one-dimensional tensors and norms keep their source, in- and output layers and
convolutions 16 bit, embeddings at least Q6_K, modulation at least Q8_0 unless it is folded, CLIP and VAE at 16 bit.
"""

from __future__ import annotations

import functools
import math

from core.models.profile import ComponentProfile, Tensor
from core.precision.formats import FORMATS, fitting

# The ladder that plans climb, best first. Q3_K only on request; Q2_K never by itself.
LADDER = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
_FINER = {"embedding": "Q6_K", "modulation": "Q8_0"}  # what these roles take at least

# How much one unit of squared relative weight error of a component shows in the result, against the transformer's 1.
# Assumed from practice: a text encoder at Q8_0 to Q5_K is called nearly free, a VAE's error is seen directly.
_WEIGHT = {"encode": 0.05, "denoise": 1.0, "decode": 1.0}


def sixteen_bit(source: str) -> str:
    """What "unquantized" means for a component: its source, or BF16 where the file keeps F32."""
    return "BF16" if source == "F32" else source


def allowed(component: ComponentProfile, role: str) -> tuple[str, ...]:
    """The formats a component may take, best first. `role` is the phase it belongs to (encode, denoise, decode)."""
    source = sixteen_bit(component.source_format)
    if role == "decode" or component.class_name.startswith("CLIP") or "UNet" in component.class_name:
        return (source,)  # VAE and CLIP break easily; a UNet is mostly convolutions, whose rows fit no packed format
    if FORMATS[source].packed:
        return (source,)
    return (source, *(name for name in LADDER if FORMATS[name].bits < FORMATS[source].bits))


def tensor_format(tensor: Tensor, wanted: str, source: str) -> str:
    """The format of one tensor when its component is held in `wanted`. What its file has packed stays so."""
    return _format(tensor.role, tensor.shape, tensor.stored, wanted, source)


@functools.cache  # asked for every tensor of every choice, of which few differ in role and shape
def _format(role: str, shape: tuple[int, ...], stored: str, wanted: str, source: str) -> str:
    if stored and (FORMATS[stored].packed or FORMATS[source].packed):
        return sixteen_bit(stored)
    if FORMATS[source].packed:
        source = "BF16"  # where nothing says what the rest of a packed component is stored in
    if role in ("keep", "io", "conv") or not FORMATS[wanted].packed:
        return sixteen_bit(source) if FORMATS[wanted].packed else wanted
    least = _FINER.get(role)
    if least is not None and FORMATS[least].bits > FORMATS[wanted].bits:
        wanted = least
    return fitting(wanted, shape, sixteen_bit(source))


def loss(tensors: list[tuple[Tensor, int]], wanted: str, source: str, role: str) -> float:
    """Predicted loss of holding tensors (each with its count) in a format: weighted mean of squared relative errors.

    Against the source, so an unquantized component loses nothing, nor one whose file has it packed. Per-tensor
    sensitivities replace the mean where they have been measured.
    """
    if FORMATS[source].packed:
        return 0.0
    elements: dict[str, int] = {}
    for tensor, count in tensors:
        name = tensor_format(tensor, wanted, source)
        elements[name] = elements.get(name, 0) + count * math.prod(tensor.shape)
    kept = FORMATS[sixteen_bit(source)].bits
    error = sum(some * FORMATS[name].rel_rmse ** 2 for name, some in elements.items() if FORMATS[name].bits < kept)
    return _WEIGHT.get(role, 1.0) * error / sum(elements.values()) if elements else 0.0
