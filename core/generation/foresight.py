"""Runs the denoise loop beforehand, on copies of all that it changes, to learn what its network will be given.

Schedules do not depend on the picture, so the network may answer with zeros meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import PipelineState

from core.generation.apart import Apart, for_one_run
from core.generation.interrupt import Interrupted
from core.generation.pipeline import Pipeline
from core.messages import ResidencyError
from core.residency.folding import FoldingError


def foresee(pipeline: Pipeline, runs: Sequence[tuple[Apart, PipelineState]]) -> None:
    """Learn what modulation will be given, for every pass that the loops will make from these states on.

    Raises:
        FoldingError: a loop or its network does something that cannot be foreseen.
    """
    if not pipeline.foldings:
        return
    parts = [_rehearse(pipeline, components, state) for components, state in runs]
    for folding, vectors in zip(pipeline.foldings, zip(*parts, strict=True), strict=True):
        folding.expect(vectors)


def _rehearse(pipeline: Pipeline, components: Apart, state: PipelineState) -> list[list[torch.Tensor]]:
    """What each folding network is given in each pass of one loop."""
    with contextlib.ExitStack() as stack:
        seen = [stack.enter_context(folding.rehearsing()) for folding in pipeline.foldings]
        try:
            pipeline.loop(for_one_run(components), _copied(state))
        except (Interrupted, ResidencyError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the loop is the library's, and runs on zeros
            raise FoldingError(f"its steps cannot be foreseen ({type(error).__name__}: {error})") from error
    return seen


def _copied(state: PipelineState) -> PipelineState:
    values = {name: _copy(value) for name, value in state.values.items()}
    return PipelineState(values, {kind: list(names) for kind, names in state.kwargs_mapping.items()})


def _copy(value: Any) -> Any:
    """A copy of a generator, which steps may draw from, and of collections; tensors are replaced, but never changed."""
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return dict(value) if isinstance(value, dict) else value
