"""Rounding that fits what a layer is given: what one block of weights gets wrong, others of its row make good.

A layer's output is W x, so errors E of its weights cost sum(E M E^T), with M the mean of x x^T over what the layer was
given: errors of columns that move together can cancel. First, blocks of columns are encoded one after the other, and
what is not stored yet is moved by what is best against the errors so far (the update of GPTQ, Frantar et al. 2022,
which has it from Hassibi and Stork's optimal brain surgeon, 1993; here by whole blocks, so that each format's own
encoder does the rounding). Then every block is encoded again against the errors of all others, and kept in the rows
where that costs less. What comes out is stored as ever: who reads it needs to know nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.precision.codec import decode, encode
from core.precision.formats import FORMATS

# Added to every column's mean square, as a share of their mean: what was seen of a layer's inputs is a sample, and
# weights must not be bent to it. Of 0.001 to 1 the starter's error on other prompts is least with this.
_DAMPING = 0.3
_AGAIN = 2  # times that each block is encoded again; the first wins most
_ROWS = 64  # of a tensor, at most, of which it is judged what fitting wins


@dataclass(frozen=True)
class Inputs:
    """What a layer was given, ready for blocks of some size; d is the length of a row.

    Attributes:
        moments: [d, d], damped, in units of the columns' mean.
        later: for each block [m, what follows it], by which its error moves what is not stored yet.
        around: for each block [d, m], by which the errors of all columns move it; its own are left as they are.
    """

    moments: Tensor
    later: tuple[Tensor, ...]
    around: tuple[Tensor, ...]


def prepared(moments: Tensor, size: int) -> Inputs | None:
    """From the mean of x x^T [d, d] for blocks of `size`; None where the layer was given nothing but zeros."""
    found = moments.double()
    mean = float(found.diagonal().mean())
    if not mean > 0:
        return None
    found = found / mean + _DAMPING * torch.eye(len(found), dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(found)), upper=True)
    later, around = [], []
    for start in range(0, len(found), size):
        end = start + size
        later.append(torch.linalg.solve_triangular(upper[start:end, start:end], upper[start:end, end:], upper=True))
        around.append(torch.linalg.solve(found[start:end, start:end], found[start:end]).T)
    return Inputs(
        found.float(),
        tuple(part.float().contiguous() for part in later),
        tuple(part.float().contiguous() for part in around),
    )


@torch.no_grad()
def fitted(rows: Tensor, stored: str, inputs: Inputs) -> Tensor:
    """The bytes that store rows in a packed format.

    Args:
        rows: float32 [n, d].
        inputs: prepared for blocks of that format.

    Returns:
        uint8 [n, bytes of a row].

    Raises:
        ValueError: the format cannot hold a number.
    """
    entry = FORMATS[stored]
    size, width = entry.block_elements, entry.block_bytes
    importance = inputs.moments.diagonal().contiguous()
    packed = torch.empty((len(rows), rows.shape[1] // size * width), dtype=torch.uint8)
    held = torch.empty_like(rows)

    def put(numbers: Tensor, start: int) -> tuple[Tensor, Tensor]:
        some = encode(numbers.contiguous(), stored, importance[start : start + size])
        return some, decode(some, stored, numbers.shape)

    moved = rows.clone()
    for block, later in enumerate(inputs.later):
        start, end = block * size, (block + 1) * size
        packed[:, block * width : (block + 1) * width], held[:, start:end] = put(moved[:, start:end], start)
        moved[:, end:] -= (moved[:, start:end] - held[:, start:end]) @ later
    errors = rows - held
    for _ in range(_AGAIN):
        for block, around in enumerate(inputs.around):
            start, end = block * size, (block + 1) * size
            best = held[:, start:end] + errors @ around
            some, again = put(best, start)
            own = inputs.moments[start:end, start:end]
            better = _cost(best - again, own) < _cost(best - held[:, start:end], own)
            packed[better, block * width : (block + 1) * width] = some[better]
            held[better, start:end] = again[better]
            errors[:, start:end] = rows[:, start:end] - held[:, start:end]
    return packed


def fitted_losses(
    weights: Mapping[str, Tensor],
    curvature: Mapping[str, Tensor],
    moments: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    losses: Mapping[str, Mapping[str, float]],
    tick: Callable[[float], None] = lambda share: None,
) -> dict[str, dict[str, float]]:
    """What is left of squared one-step errors when rounding fits.

    Judged on what the weights are not fitted to: fitted to one half of what layers were given, the other half says
    what their errors cost, against those of plain rounding.

    Args:
        weights: by name [n, d]; `curvature` in their shapes (core.generation.onestep).
        moments: by name, the mean of x x^T in each half.
        losses: by name and format, of plain rounding.

    Returns:
        As `losses`.
    """
    found: dict[str, dict[str, float]] = {}
    for number, (name, known) in enumerate(losses.items()):
        tick(number / len(losses))
        found[name] = dict(known)
        if name not in moments[0] or name not in moments[1]:
            continue
        step = -(-len(weights[name]) // _ROWS)
        rows, matters = weights[name][::step], curvature[name][::step].sum(1)
        ready: dict[int, Inputs | None] = {}
        for stored, loss in known.items():
            entry = FORMATS[stored]
            if not entry.packed:
                continue
            if entry.block_elements not in ready:
                ready[entry.block_elements] = prepared(moments[0][name], entry.block_elements)
            inputs = ready[entry.block_elements]
            if inputs is None:
                continue
            costs = [
                float((_cost(decode(data, stored, rows.shape) - rows, moments[1][name]) * matters).sum())
                for data in (encode(rows, stored), fitted(rows, stored, inputs))
            ]
            found[name][stored] = loss * costs[1] / costs[0] if costs[0] else loss
    return found


def fits(shape: Sequence[int], stored: str) -> bool:
    """Whether a tensor of this shape can be fitted in a format: a packed matrix of a layer."""
    return len(shape) == 2 and FORMATS[stored].packed


def _cost(errors: Tensor, moments: Tensor) -> Tensor:
    """Of each row [n]."""
    return ((errors @ moments) * errors).sum(1)
