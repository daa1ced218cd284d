"""Rounding that fits what layers are given: less error of the output in the same bytes, in files like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.commands.convert_sensitivity import FORMATS, measure_on
from core.conversion.fitted import fitted, prepared
from core.conversion.moments import Moments, read_moments, write_moments
from core.generation.onestep import PROMPTS, OneStep
from core.messages import ModelFileError
from core.models.folder import read_folder
from core.models.gguf_header import read_gguf
from core.models.sensitivity import write_measured
from core.precision import decode, encode
from core.precision.formats import FORMATS as KNOWN
from core.resources import resource
from tests.core.conversion.written import convert, report_of

STARTER = resource("starter", "model") / "transformer"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine two threads wait for each other between a small network's many operations."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def given(width: int, alike: float) -> torch.Tensor:
    """Inputs [n, width] whose neighbouring columns are correlated, and of different size."""
    chance = torch.Generator().manual_seed(1)
    inputs = torch.randn(4096, width, generator=chance)
    for column in range(1, width):
        inputs[:, column] = alike * inputs[:, column - 1] + (1 - alike**2) ** 0.5 * inputs[:, column]
    return inputs * torch.linspace(0.5, 1.5, width)


def output_error(stored: torch.Tensor, name: str, weights: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((decode(stored, name, weights.shape) - weights) @ inputs.T).norm() / (weights @ inputs.T).norm())


@pytest.mark.parametrize("name", [name for name in FORMATS if KNOWN[name].packed])
def test_errors_of_inputs_that_move_together_cancel(name: str) -> None:
    weights = torch.randn(24, 768, generator=torch.Generator().manual_seed(2))
    inputs = given(768, 0.98)
    ready = prepared(inputs[:2048].T @ inputs[:2048] / 2048, KNOWN[name].block_elements)
    assert ready is not None
    data = fitted(weights, name, ready)
    plain = encode(weights, name)
    assert data.shape == plain.shape
    some = KNOWN[name].block_elements == 32
    limit = 0.75 if some else 0.97  # with 24 blocks in a row there is more to make good than with 3
    assert output_error(data, name, weights, inputs[2048:]) < limit * output_error(plain, name, weights, inputs[2048:])


def test_inputs_that_have_nothing_to_do_with_each_other_lose_nothing() -> None:
    weights = torch.randn(24, 256, generator=torch.Generator().manual_seed(2))
    inputs = given(256, 0.0)
    ready = prepared(inputs.T @ inputs / len(inputs), 32)
    assert ready is not None
    for name in ("Q8_0", "Q5_0", "IQ4_NL"):
        errors = [
            output_error(data, name, weights, inputs) for data in (fitted(weights, name, ready), encode(weights, name))
        ]
        assert errors[0] < 1.01 * errors[1]


def test_a_layer_that_is_given_nothing_is_not_fitted() -> None:
    assert prepared(torch.zeros(32, 32), 32) is None


@pytest.fixture(scope="module")
def starter() -> OneStep:
    return OneStep(read_folder(resource("starter", "model")), PROMPTS[:4])


@pytest.fixture(scope="module")
def known(starter: OneStep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of what was measured on the starter, with what its layers are given beside it."""
    measured, moments = measure_on(
        starter, read_folder(resource("starter", "model")), lambda what, share: None, ("Q8_0", "Q5_1", "IQ4_NL")
    )
    path = tmp_path_factory.mktemp("measured") / "starter.json"
    write_measured(path, measured)
    write_moments(path.with_suffix(".safetensors"), moments)
    return path


def weights_in(path: Path) -> dict[str, torch.Tensor]:
    data = path.read_bytes()
    return {
        name: decode(torch.frombuffer(bytearray(data[at.start : at.end]), dtype=torch.uint8), at.type, at.shape)
        for name, at in read_gguf(path).tensors.items()
    }


def test_the_same_bytes_err_less_on_other_prompts(starter: OneStep, known: Path, tmp_path: Path) -> None:
    other = starter.again(PROMPTS[5:7], 99)
    (network,) = starter.denoisers
    size = report_of(tmp_path, STARTER, "--format", "Q8_0")["bytes"]
    before = other.error({network: weights_in(tmp_path / "out.gguf")})
    report = report_of(tmp_path, STARTER, "--target-size", size, "--sensitivity", known)
    assert report["bytes"] <= size
    assert report["fitted_tensors"] > 50
    assert "starter" in report["importance"]
    after = other.error({network: weights_in(tmp_path / "out.gguf")})
    assert after < 0.8 * before
    assert report["expected_one_step_error"] == pytest.approx(after, rel=0.4)
    plain = report_of(tmp_path, STARTER, "--target-size", size, "--sensitivity", known, "--importance", "none")
    assert "importance" not in plain
    assert after < 0.8 * other.error({network: weights_in(tmp_path / "out.gguf")})


def test_every_mode_can_be_fitted_and_is_resumed(known: Path, tmp_path: Path) -> None:
    words = (STARTER, "--format", "Q8_0", "--importance", "measured", "--sensitivity", known, "-o", tmp_path / "a.gguf")
    convert(*words)
    whole = (tmp_path / "a.gguf").read_bytes()
    moments, source = read_moments(known.with_suffix(".safetensors")), weights_in(tmp_path / "a.gguf")
    convert(STARTER, "--format", "F16", "-o", tmp_path / "f.gguf")
    full = weights_in(tmp_path / "f.gguf")
    name = "single_transformer_blocks.3.attn.to_v.weight"
    ready = prepared(moments.of["transformer"][name], 32)
    assert ready is not None
    assert torch.equal(source[name], decode(fitted(full[name], "Q8_0", ready), "Q8_0", full[name].shape))
    convert(*words)  # again, over what is there
    assert (tmp_path / "a.gguf").read_bytes() == whole


def test_what_cannot_be_run_says_so(flux_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("--format", "Q8_0"), ("--target-size", "6MB")):
        capsys.readouterr()
        convert(flux_file, "-o", tmp_path / "b.gguf", *words, "--importance", "measured", code=2)
        assert "model folder" in capsys.readouterr().err
    convert(
        flux_file,
        "-o",
        tmp_path / "b.gguf",
        "--format",
        "Q8_0",
        "--importance",
        "measured",
        "--sensitivity",
        "table",
        code=2,
    )
    assert "--sensitivity measured" in capsys.readouterr().err


def test_what_layers_are_given_makes_the_round_trip(tmp_path: Path) -> None:
    own = Moments("some", 3, {"transformer": {"a.weight": torch.eye(4), "b.weight": torch.full((2, 2), 0.5)}})
    write_moments(tmp_path / "m.safetensors", own)
    again = read_moments(tmp_path / "m.safetensors")
    assert (again.model, again.calls, str(again)) == ("some", 3, str(own))
    other = Moments("some", 3, {"transformer": {"a.weight": torch.eye(4), "b.weight": torch.full((2, 2), 0.6)}})
    assert str(other) != str(own)
    data = (tmp_path / "m.safetensors").read_bytes()
    for damage in (b"", data[:60], data[:-3], b"\xff" * 40):
        (tmp_path / "m.safetensors").write_bytes(damage)
        with pytest.raises(ModelFileError, match=r"m\.safetensors"):
            read_moments(tmp_path / "m.safetensors")
    broken = Moments("some", 3, {"transformer": {"a.weight": torch.full((2, 2), float("nan"))}})
    write_moments(tmp_path / "m.safetensors", broken)
    with pytest.raises(ModelFileError, match="damaged"):
        read_moments(tmp_path / "m.safetensors")
