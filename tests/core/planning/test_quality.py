"""Predicted quality: per-tensor errors, weighted by what each tensor counts for in its family."""

from __future__ import annotations

import math

import pytest

from core.messages import Phase
from core.models import profile as models
from core.models.profile import Tensor
from core.planning import policy
from core.planning.policy import LADDER
from core.planning.quality import weighted

MODELS = ["flux-schnell", "sd35-large", "qwen-image", "wan22-a14b", "ltx-video", "starter"]


def transformer(name: str) -> list[tuple[Tensor, float]]:
    model = models.load(name)
    return weighted(model.components["transformer"], model.family, Phase.DENOISE)


@pytest.mark.parametrize("name", MODELS)
def test_coarser_formats_lose_more(name: str) -> None:
    losses = [policy.loss(transformer(name), wanted, "BF16", "denoise") for wanted in ("BF16", *LADDER)]
    assert losses == sorted(losses)
    assert losses[0] == 0 < losses[1] < losses[-1]


def test_double_blocks_of_flux_count_more_than_their_size() -> None:
    component = models.load("flux-schnell").components["transformer"]
    kinds = {tensor: name for name, kind in component.kinds.items() for tensor in kind.tensors}
    sums = {"transformer_blocks": [0.0, 0.0], "single_transformer_blocks": [0.0, 0.0]}
    blocks = dict(component.order)
    for tensor, counts in transformer("flux-schnell"):
        if tensor in kinds and tensor.role == "linear":
            elements = math.prod(tensor.shape)
            sums[kinds[tensor]][0] += elements * counts
            sums[kinds[tensor]][1] += elements * blocks[kinds[tensor]]
    double, single = (counted / size for counted, size in sums.values())
    assert double > 1.5 * single


def test_attention_values_count_more_than_queries() -> None:
    counts = {tensor.name: count for tensor, count in transformer("qwen-image")}
    assert counts["attn.to_v.weight"] > 4 * counts["attn.to_q.weight"]


def test_losing_a_sensitive_tensor_is_worse_than_losing_another_of_its_size() -> None:
    rows = transformer("qwen-image")
    error = {}
    for name in ("attn.to_v.weight", "attn.to_q.weight"):
        kept = [(Tensor(t.name, t.shape, "linear" if t.name == name else "keep"), count) for t, count in rows]
        error[name] = policy.loss(kept, "Q4_K", "BF16", "denoise")
    assert error["attn.to_v.weight"] > 4 * error["attn.to_q.weight"] > 0
