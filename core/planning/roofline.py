"""Seconds that the kernels of a block take on a machine: each the slowest of its launch, its arithmetic, its traffic.

(S. Williams, A. Waterman, D. Patterson: Roofline, CACM 52/4, 2009.) A card computes while the host launches what comes
next, so the slower of the two decides. A processor does both itself, one after the other; giving a kernel to all of its
cores takes time too, up to as long as the kernel itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from core.hardware.profile import HardwareProfile
from core.models.profile import BlockKind, evaluate


def block_seconds(
    kind: BlockKind, size: int, variables: Mapping[str, float], hardware: HardwareProfile, compute: str
) -> float:
    """Seconds of one block in one pass with a batch of one.

    Where the card's share of its peak is assumed for whole networks (`function_rate` is 0), what is no product is part
    of that share.

    Args:
        size: bytes of the block's weights as they are held.
        variables: N, A and T.
        compute: the format that it computes in.
    """
    rate = hardware.rate_of(compute)
    if not kind.kernels:
        return max(evaluate(kind.flops, variables) / rate, size / hardware.memory_bandwidth)
    numbers = sum(math.prod(tensor.shape) for tensor in kind.tensors)
    each = size / numbers if numbers else 0.0  # bytes that one weight takes
    wide, own, floor = compute == "F32", hardware.vendor == "cpu", hardware.launch_seconds
    seconds = launched = 0.0
    for group in kind.kernels:
        traffic = group.wide if wide else group.bytes
        if not traffic and not group.weights:
            continue  # casts that fall away
        count = evaluate(group.count, variables)
        launched += count
        if group.kind != "product" and not hardware.function_rate:
            continue
        bandwidth = hardware.function_rate if group.kind == "function" else hardware.memory_bandwidth
        moving = (evaluate(traffic, variables) + group.weights * each) / bandwidth
        alone = max(evaluate(group.flops, variables) / rate, moving)
        seconds += alone + min(count * floor, alone) if own else max(count * floor, alone)
    launching = launched * hardware.operation_seconds
    return seconds + launching if own else max(seconds, launching)
