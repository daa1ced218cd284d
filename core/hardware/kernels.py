"""What one operation of a network costs a device: which tensors its kernel reads and writes, and its arithmetic.

Used where operations are counted (dry runs on the meta device) and where they are made to take their time (an emulated
card), so that both mean the same by a kernel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

PRODUCT, FUNCTION, MOVE = "product", "function", "move"
"""Kinds of kernels: matrix products, convolutions and attention; what computes functions of each number (norms,
activations, softmax); what only adds, multiplies or moves numbers."""

# These return memory or another look at it, and launch nothing.
_SILENT = frozenset(
    "empty empty_like empty_strided new_empty new_empty_strided empty_permuted detach alias lift_fresh _unsafe_view "
    "_reshape_alias as_strided resize_ set_ _local_scalar_dense item is_pinned sym_size".split()
)
# Of these the kernel reads as many rows of the first tensor as it writes.
_LOOKUPS = frozenset("embedding index_select index gather".split())
# These write their first tensor without reading it.
_OVERWRITES = frozenset("copy_ fill_ zero_ normal_ uniform_".split())
_FUNCTIONS = frozenset(
    "gelu silu sigmoid tanh exp log sin cos softplus mish elu hardswish erf sqrt rsqrt reciprocal _softmax "
    "_log_softmax native_layer_norm native_group_norm native_batch_norm _fused_rms_norm mean var var_mean "
    "_upsample_bicubic2d_aa linalg_vector_norm glu leaky_relu snake".split()
)
_ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"


def launches(func: Any) -> bool:
    """Whether an operation of torch's dispatcher runs a kernel at all."""
    return not func.is_view and func._overloadpacket.__name__ not in _SILENT


def kind_of(func: Any) -> str:
    """PRODUCT, FUNCTION or MOVE."""
    name = func._overloadpacket.__name__
    if func._overloadpacket in flop_registry or name == _ATTENTION:
        return PRODUCT
    return FUNCTION if name.rstrip("_") in _FUNCTIONS or name in _FUNCTIONS else MOVE


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> float:
    """Floating-point operations of a product, a multiply-add counted as two; 0 of anything else."""
    if func._overloadpacket.__name__ == _ATTENTION:
        query, key, value = args[:3]
        return float(attention_flops(query.shape, key.shape, value.shape))
    formula = flop_registry.get(func._overloadpacket)
    return float(formula(*args, **kwargs, out_val=out)) if formula is not None else 0.0


def attention_flops(query: torch.Size, key: torch.Size, value: torch.Size) -> int:
    """Operations of softmax(q k^T) v on shapes (..., heads, tokens, channels); two products of a multiply-add each."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def touched(func: Any, args: Any, kwargs: Any, out: Any) -> list[torch.Tensor]:
    """The tensors that a kernel reads and then those that it writes; one it reads in part stands for as much."""
    written = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
    read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    name = func._overloadpacket.__name__
    if name in _OVERWRITES:
        return read[1:] + written
    if name in _LOOKUPS:
        return read[1:] + written + written
    return read + written


def traffic(tensor: torch.Tensor) -> int:
    """Bytes of a tensor that are read or written; what a broadcast repeats is read once."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())
