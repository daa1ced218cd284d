"""What a plan takes for guided is what a run guides: the rules of families, asked of diffusers' own guiders."""

from __future__ import annotations

import pytest
from diffusers.guiders import ClassifierFreeGuidance

from core.generation.guidance import guidance
from core.models import profile as models
from core.models.guidance import guides
from core.planning.job import job_of

CASES = [
    ("QwenImagePipeline", 4.0, "", 1),
    ("QwenImagePipeline", 4.0, "fog", 2),
    ("QwenImagePipeline", 1.0, "fog", 1),
    ("QwenImagePipeline", None, "", 1),
    ("ZImagePipeline", 0.0, "", 1),
    ("ZImagePipeline", 0.5, "", 2),
    ("StableDiffusionXLPipeline", 5.0, "", 2),
    ("StableDiffusionXLPipeline", 1.0, "fog", 1),
    ("StableDiffusionXLPipeline", 0.0, "", 1),  # turbo models: the stock pipeline guides above 1 only
    ("WanPipeline", 4.0, "", 2),
]


@pytest.mark.parametrize(("family", "scale", "negative", "calls"), CASES)
def test_a_run_makes_as_many_calls_as_a_plan_counts(
    family: str, scale: float | None, negative: str, calls: int
) -> None:
    assert guidance(family, ClassifierFreeGuidance(guidance_scale=4.0), scale, negative).conditions == calls
    assert guides(family, scale, negative=bool(negative)) == (calls == 2)


def test_a_job_without_a_negative_prompt_is_planned_as_it_runs() -> None:
    model = models.load("qwen-image")
    need = next(need for need in model.phases if need.guided)
    assert job_of(model, steps=10).passes(need) == 10
    assert job_of(model, steps=10, negative=True).passes(need) == 20
