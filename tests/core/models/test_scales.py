"""Files in F8: which tensors have factors, and what a plan counts is what the device will hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.models.folder import read_folder
from core.models.info import ComponentInfo
from core.models.local import profile_of
from core.models.stored import Stored, stored_tensors
from core.planning import policy
from core.precision.formats import FORMATS
from core.resources import resource
from tests.f8_files import F8, Rewrite, plain, rewritten, with_factors, with_row_factors


def stored(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Stored]:
    save_file(tensors, path)
    return stored_tensors(ComponentInfo(name="transformer", library="", class_name="", files=(str(path),)))


@pytest.mark.parametrize("key", ["scale_weight", "weight_scale", "weight_scale_inv"])
def test_factors_belong_to_their_tensors(tmp_path: Path, key: str) -> None:
    eight = torch.ones(4, 8).to(F8)
    found = stored(
        tmp_path / "a.safetensors",
        {
            "a.weight": eight,
            f"a.{key}": torch.tensor(0.5),
            "a.scale_input": torch.tensor(1.0),
            "a.bias": torch.zeros(4),
            "b.weight": eight.clone(),
            f"c.{key}": torch.ones(3),  # a parameter that is called so
            "scaled_fp8": torch.zeros(2).to(F8),
        },
    )
    assert set(found) == {"a.weight", "a.bias", "b.weight", f"c.{key}"}
    scale = found["a.weight"].scale
    assert scale is not None
    assert (scale.name, scale.elements) == (f"a.{key}", 1)
    assert found["b.weight"].scale is None


def test_files_without_f8_stay_as_they_are(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.ones(4, 8), "a.weight_scale": torch.tensor(0.5), "logit.scale_weight": torch.ones(2)}
    found = stored(tmp_path / "a.safetensors", tensors)
    assert set(found) == set(tensors)
    assert all(tensor.scale is None for tensor in found.values())


@pytest.mark.parametrize("rewrite", [plain, with_factors, with_row_factors])
def test_plans_count_the_bytes_that_the_file_has(home: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    info = read_folder(rewritten(resource("starter", "model"), tmp_path / "model", "transformer", rewrite))
    profile = profile_of(info)
    assert profile is not None
    transformer = profile.components["transformer"]
    assert transformer.source_format == info.components["transformer"].format == "F8_E4M3"
    held = dict.fromkeys(("F8_E4M3", "BF16"), 0)
    parts = [(transformer.rest, 1), *((transformer.kinds[kind], count) for kind, count in transformer.order)]
    for part, count in parts:
        for tensor in part.tensors:
            name = policy.tensor_format(tensor, "F8_E4M3", "F8_E4M3")
            held["F8_E4M3" if name == "F8_E4M3" else "BF16"] += FORMATS[name].bytes_of(tensor.shape) * count
    tensors = stored_tensors(info.components["transformer"]).values()
    matrices = sum(tensor.bytes for tensor in tensors if len(tensor.shape) == 2)
    assert held["F8_E4M3"] == matrices
    assert 0 < held["BF16"] < 0.02 * matrices
    factors = sum(tensor.scale.elements for tensor in tensors if tensor.scale and tensor.scale.elements > 1)
    others = sum(tensor.elements for tensor in tensors if len(tensor.shape) < 2)
    assert held["BF16"] == 2 * (others + factors)
    assert profile.components["text_encoder_2"].source_format == "F16"
