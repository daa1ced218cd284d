"""Networks that share the steps of one sampling loop, so that only one is needed at a time: Wan 2.2's two experts.

The library's loop takes the first while there is more noise than a boundary, and the second from there on. Here the
loop is run once for each of them, over the steps that are its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks, PipelineState

_TIMES = "timesteps"


def experts(loop: ModularPipelineBlocks) -> tuple[str, ...]:
    """The networks that share a loop's steps, in their order; empty where one makes all of them."""
    names = [spec.name for spec in loop.expected_components if re.fullmatch(r"transformer(_\d)?", spec.name or "")]
    return tuple(names) if len(names) == 2 else ()


def shares(modular: Any, steps: int) -> tuple[float, float]:
    """The parts of so many steps that two experts make."""
    scheduler = copy.deepcopy(modular.scheduler)
    scheduler.set_timesteps(steps)
    first = _above(modular, scheduler.timesteps) / len(scheduler.timesteps)
    return first, 1 - first


@contextmanager
def steps_of(part: int, modular: Any, state: PipelineState) -> Iterator[int]:
    """Within the `with` a loop makes the steps of one of two experts; gives the number of the first of them."""
    times: torch.Tensor = state.get(_TIMES)
    above = _above(modular, times)
    state.values[_TIMES] = times[above:] if part else times[:above]
    try:
        yield above if part else 0
    finally:
        state.values[_TIMES] = times


def _above(modular: Any, times: Sequence[Any] | torch.Tensor) -> int:
    """How many of falling timesteps are the first expert's: those from the boundary up."""
    boundary = modular.config.boundary_ratio * modular.num_train_timesteps
    return sum(bool(time >= boundary) for time in times)
