"""Where the library's modular pipelines (diffusers 0.42) differ from its stock ones, and what makes them agree."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from diffusers.modular_pipelines.modular_pipeline import (
    ModularPipeline,
    ModularPipelineBlocks,
    PipelineState,
    SequentialPipelineBlocks,
)
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from transformers import AutoTokenizer

from core.models.info import ModelInfo


def members(base: type[ModularPipeline], info: ModelInfo) -> dict[str, Any]:
    """What a modular pipeline's class gets wrong about a model, as attributes for a class derived from it."""
    if info.clip is None or not hasattr(base, "vae_scale_factor_temporal"):
        return {}
    # counted from the stages of a Wan VAE, which leaves out the patches that Wan 2.2's 5B model has besides
    scales = {"vae_scale_factor_spatial": info.spatial, "vae_scale_factor_temporal": info.clip.temporal}
    return {name: property(partial(_constant, scale)) for name, scale in scales.items()}


def _constant(value: int, _: object) -> int:
    return value


def agreeing(blocks: SequentialPipelineBlocks) -> SequentialPipelineBlocks:
    """The blocks, saying to the text encoder what the stock pipeline says."""
    for block in blocks.sub_blocks.values():
        if hasattr(block, "DEFAULT_SYSTEM_MESSAGE"):  # of FLUX.2, where a line break became a space
            block.DEFAULT_SYSTEM_MESSAGE = SYSTEM_MESSAGE
    return blocks


def reader(spec: ComponentSpec) -> ComponentSpec:
    """The spec of a component without weights, as it is loaded here.

    FLUX.2's texts come through a processor that reads pictures too, and wants torchvision for that; what it does with a
    text is its tokenizer's work.
    """
    if not (spec.name.startswith("tokenizer") and getattr(spec.type_hint, "__name__", "").endswith("Processor")):
        return spec
    plain = copy.copy(spec)
    plain.type_hint = AutoTokenizer
    return plain


def fill_unasked(loop: ModularPipelineBlocks, state: PipelineState) -> None:
    """Give the loops of Wan and LTX the unguided texts, which they ask for even where nothing guides.

    The guider then passes on the guided ones alone, so it does not matter what the others are.
    """
    for parameter in loop.inputs:
        name = parameter.name or ""
        if parameter.required and name.startswith("negative_") and state.get(name) is None:
            state.set(name, state.get(name.removeprefix("negative_")))
