"""The sampling loops of one request, or of several beside each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.modular_pipelines.modular_pipeline import (
    BlockState,
    InsertableDict,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
)

from core.generation.experts import steps_of
from core.generation.foresight import foresee
from core.generation.guided import Together
from core.generation.interrupt import Interrupted, on_behalf_of
from core.generation.pipeline import Pipeline
from core.generation.run import Run
from core.messages import Phase
from core.residency.folding import FoldingError, as_part
from core.residency.lockstep import in_lockstep

OnStep = Callable[[int, Callable[[], tuple[int, int, bytes]]], None]
"""Called after each step with (steps done, paint); paint() makes a preview as (width, height, RGB bytes)."""


def denoise(
    pipeline: Pipeline, runs: Sequence[tuple[Run, OnStep]], *, lockstep: bool = False, part: int = 0
) -> list[bool]:
    """Run the sampling loops of encoded requests of one model, with its denoiser held.

    Where the model has experts, `part` says whose steps are made, with that one held; all have their turn in order.

    With `lockstep` all calls of the denoiser, those of one step and those of several requests, go through each streamed
    block together; each request's pixels are what they are without. Several requests need it.

    Returns:
        Whether each came to its end; the others were interrupted.

    Raises:
        FoldingError: modulation was to be computed before the loops and could not be; begin again without it.
    """
    last = part >= len(pipeline.experts) - 1
    if part == 0:
        for run, _ in runs:
            run.run_blocks(_around_loop(run)[0])
    ended = [False] * len(runs)
    firsts = [0] * len(runs)

    def call(number: int) -> None:
        run, on_step = runs[number]
        with on_behalf_of(run.request.id), as_part(number):
            try:
                loop = _watched(run.workflow.loop, run, on_step, firsts[number], together=lockstep)
                run.run_blocks([loop, *(_around_loop(run)[1] if last else ())])
                ended[number] = True
            except Interrupted:
                pass

    try:
        with ExitStack() as stack:
            if pipeline.experts:
                firsts = [stack.enter_context(steps_of(part, pipeline.modular, run.state)) for run, _ in runs]
            with torch.no_grad():
                foresee(pipeline, [(run.components, run.state) for run, _ in runs])
            if lockstep:
                in_lockstep([partial(call, number) for number in range(len(runs))])
            else:
                call(0)
    except FoldingError as error:  # the model is planned without it from now on
        pipeline.unfoldable = f"modulation stays on the device: {error}"
        raise
    return ended


def _around_loop(run: Run) -> tuple[list[ModularPipelineBlocks], list[ModularPipelineBlocks]]:
    """The blocks of a run's denoising that come before its loop, and those behind it."""
    blocks = list(run.workflow.phase(Phase.DENOISE).blocks.values())
    place = blocks.index(run.workflow.loop)
    return blocks[:place], blocks[place + 1 :]


def _watched(
    loop: LoopSequentialPipelineBlocks, run: Run, on_step: OnStep, first: int, *, together: bool
) -> LoopSequentialPipelineBlocks:
    """The library's loop with two blocks of ours in it, which look at the latents before and after each step.

    `first` is the number of the step that it begins with.
    """
    latents = torch.empty(0)

    def before(block_state: BlockState, _: int) -> None:
        nonlocal latents
        latents = block_state.latents

    def after(block_state: BlockState, step: int) -> None:
        run.check()
        now, earlier = block_state.latents, latents
        on_step(first + step + 1, lambda: run.paint(earlier, now, first + step))

    blocks = {
        name: Together(block) if together and _guides(block) else block for name, block in loop.sub_blocks.items()
    }
    watched = copy.copy(loop)
    watched.sub_blocks = InsertableDict(
        {"residency_before": _LoopBlock(before), **blocks, "residency_after": _LoopBlock(after)}
    )
    return watched


def _guides(block: ModularPipelineBlocks) -> bool:
    return any(spec.type_hint is ClassifierFreeGuidance for spec in block.expected_components)


class _LoopBlock(ModularPipelineBlocks):
    """A block of ours in diffusers' denoise loop that only looks."""

    def __init__(self, look: Callable[[BlockState, int], None]) -> None:
        super().__init__()
        self._look = look

    def __call__(self, components: Any, block_state: BlockState, i: int, t: torch.Tensor) -> tuple[Any, BlockState]:
        self._look(block_state, i)
        return components, block_state
