"""Runs the denoise loop beforehand, on copies of all that it changes, to learn what its network will be given.

Schedules do not depend on the picture, so the network may answer with zeros meanwhile.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import PipelineState

from core.generation.interrupt import Interrupted
from core.generation.pipeline import Pipeline
from core.messages import ResidencyError
from core.residency.folding import FoldingError

_CHANGED = ("scheduler", "guider")  # components that count steps


def fold(pipeline: Pipeline, state: PipelineState, check: Callable[[], None]) -> None:
    """Compute the modulation of what is attached, for every pass that the loop will make from this state on.

    Raises:
        FoldingError: the loop or its network does something that cannot be foreseen.
    """
    foldings = pipeline.foldings
    if not foldings:
        return
    with contextlib.ExitStack() as stack:
        seen = [stack.enter_context(folding.rehearsing()) for folding in foldings]
        try:
            pipeline.loop(_Apart(pipeline.modular), _copied(state))
        except (Interrupted, ResidencyError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the loop is the library's, and runs on zeros
            raise FoldingError(f"its steps cannot be foreseen ({type(error).__name__}: {error})") from error
    for folding, vectors in zip(foldings, seen, strict=True):
        folding.compute(vectors, check)


class _Apart:
    """A pipeline's components, with copies of those that change."""

    def __init__(self, modular: Any) -> None:
        self._modular = modular
        self._copies = {name: copy.deepcopy(getattr(modular, name, None)) for name in _CHANGED}

    def __getattr__(self, name: str) -> Any:
        return self._copies[name] if name in _CHANGED else getattr(self._modular, name)


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
