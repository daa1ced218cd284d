"""The one-step error is that of the weights alone, and curvature foretells it, for whatever family."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from core.generation.onestep import PROMPTS, OneStep, losses
from core.models.folder import read_folder
from core.precision import decode, encode
from core.precision.formats import FORMATS
from core.resources import resource

Tiny = Callable[[str], Path]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other between a small network's many operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def starter() -> OneStep:
    return OneStep(read_folder(resource("starter", "model")), PROMPTS[:2])


def stored(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Those that a format takes, as it gives them back."""
    fitting = {key: weight for key, weight in weights.items() if FORMATS[name].takes(tuple(weight.shape))}
    return {key: decode(encode(weight, name), name, weight.shape) for key, weight in fitting.items()}


@pytest.mark.parametrize("family", ["flux", "sdxl", "z_image"])
def test_errors_add_up_as_curvature_says_in_every_family(family: str, tiny: Tiny) -> None:
    onestep = OneStep(read_folder(tiny(family)), PROMPTS[:1], side=64)
    assert onestep.calls
    assert onestep.error({}) == 0.0  # calls are replayed exactly
    (network,) = onestep.denoisers
    weights = onestep.weights(network)
    expected = losses(weights, onestep.curvature()[network], ["Q8_0"])
    changed = stored(weights, "Q8_0")
    assert len(changed) > len(weights) // 2
    real = onestep.error({network: changed})
    assert real > 0
    assert math.sqrt(sum(found.get("Q8_0", 0.0) for found in expected.values())) == pytest.approx(real, rel=0.35)
    assert onestep.error({}) == 0.0  # the weights are its own again


def test_what_one_tensor_costs_is_foretold_without_trying_it(starter: OneStep) -> None:
    (network,) = starter.denoisers
    names = [name for name in starter.weights(network) if name.startswith(("single_transformer_blocks.5", "proj_out"))]
    names += [f"transformer_blocks.0.attn.{name}.weight" for name in ("to_q", "to_v", "add_q_proj", "to_out.0")]
    weights = {name: starter.weights(network)[name] for name in names}
    expected = losses(weights, starter.curvature()[network], ["Q5_0"])
    real = {name: starter.error({network: {name: new}}) for name, new in stored(weights, "Q5_0").items()}
    ratios = [math.log(math.sqrt(expected[name]["Q5_0"]) / real[name]) for name in real]
    assert max(real.values()) > 10 * min(real.values())
    assert statistics.pstdev(ratios) < 0.3
    assert abs(statistics.mean(ratios)) < 0.2


def test_other_prompts_and_seeds_are_other_inputs(starter: OneStep) -> None:
    other = starter.again(PROMPTS[2:3], 7)
    (network,) = starter.denoisers
    coarse = {network: stored(starter.weights(network), "IQ4_NL")}
    assert other.error({}) == 0.0
    assert other.error(coarse) != starter.error(coarse)
    assert other.error(coarse) == pytest.approx(starter.error(coarse), rel=0.3)


def test_an_error_leaves_the_weights_as_they_are_even_where_it_fails(starter: OneStep) -> None:
    (network,) = starter.denoisers
    name = next(iter(starter.weights(network)))
    with pytest.raises(RuntimeError):
        starter.error({network: {name: torch.zeros(3)}})
    assert starter.error({}) == 0.0
