"""What a conversion writes: types, numbers, order and errors."""

from __future__ import annotations

from math import prod
from pathlib import Path

import gguf
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core.models.gguf_header import read_gguf
from core.precision import decode, encode
from core.precision.formats import FORMATS
from tests.core.conversion.written import convert, flux_like, report_of, tensor_in

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("wanted", [name for name in FORMATS if name != "F8_E4M3"])
def test_every_type_is_written_as_the_encoder_makes_it(tmp_path: Path, wanted: str) -> None:
    weights = torch.randn(40, 512, generator=torch.Generator().manual_seed(1))
    save_file(
        {
            "blocks.0.w.weight": weights,
            "head.modulation": torch.ones(1),
            "blocks.0.cross_attn.q.weight": weights.clone(),
        },
        tmp_path / "a.safetensors",
    )
    convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", wanted)
    kind, numbers, raw = tensor_in(tmp_path / "a.gguf", "blocks.0.w.weight")
    expected = encode(weights, wanted)
    assert kind == wanted
    assert raw == expected.numpy().tobytes()
    assert torch.equal(numbers, decode(expected, wanted, weights.shape))
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert theirs["blocks.0.w.weight"].data.tobytes() == raw


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.one_of(
        st.lists(st.integers(0, 5), max_size=5).map(tuple),
        st.tuples(st.integers(1, 4), st.sampled_from([32, 64, 96, 256, 512])),
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([3, 32])),
    ),
    dtype=st.sampled_from(["F32", "F16", "BF16"]),
    wanted=st.sampled_from(["Q8_0", "Q4_K", "Q5_0", "F16"]),
)
def test_every_shape_makes_the_round_trip(tmp_path: Path, shape: tuple[int, ...], dtype: str, wanted: str) -> None:
    weights = torch.linspace(-1, 1, max(1, prod(shape)))[: prod(shape)].reshape(shape).to(TORCH[dtype])
    save_file({"layers.0.x.weight": weights, "layers.0.tiny.weight": torch.zeros(2, 32)}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", wanted)
    kind, numbers, _ = tensor_in(tmp_path / "a.gguf", "layers.0.x.weight")
    assert numbers.shape == weights.shape
    allowed = {"Q8_0": 0.01, "Q5_0": 0.08, "Q4_K": 0.12}.get(kind, 0.005)
    assert torch.allclose(numbers, weights.float(), atol=allowed)
    theirs = gguf.GGUFReader(tmp_path / "a.gguf")
    assert {tensor.name: int(tensor.n_elements) for tensor in theirs.tensors}["layers.0.x.weight"] == prod(shape)


def test_roles_keep_what_should_not_be_packed(flux_file: Path, tmp_path: Path) -> None:
    report = report_of(tmp_path, flux_file, "--format", "Q4_K")
    types = {name: tensor.type for name, tensor in read_gguf(tmp_path / "out.gguf").tensors.items()}
    assert types["img_in.weight"] == types["final_layer.linear.weight"] == "BF16"
    assert types["double_blocks.0.img_attn.norm.key_norm.scale"] == "F32"
    assert types["double_blocks.3.img_mod.lin.weight"] == "Q8_0"
    assert types["double_blocks.3.img_mod.lin.bias"] == "F32"  # which others read; the same numbers
    assert types["double_blocks.3.img_mlp.2.weight"] == "Q5_0"
    assert types["single_blocks.3.linear1.weight"] == "Q4_K"
    assert report["bytes"] == (tmp_path / "out.gguf").stat().st_size
    assert {*report} >= {
        "bytes", "seconds", "peak_rss_bytes", "baseline_rss_bytes", "types", "components", "rel_rmse", "worst",
    }  # fmt: skip
    assert sum(report["types"].values()) == report["components"]["transformer"]["bytes"]
    header = read_gguf(tmp_path / "out.gguf")
    assert header.metadata["general.architecture"] == "flux"
    assert header.metadata["residency.family"] == "FluxPipeline"
    assert "small" in str(header.metadata["residency.source_metadata"])


def test_the_errors_in_the_file_are_those_of_its_tensors(flux_file: Path, tmp_path: Path) -> None:
    report = report_of(tmp_path, flux_file, "--format", "Q5_K")
    header, source = read_gguf(tmp_path / "out.gguf"), flux_like()
    errors = header.metadata["residency.rel_rmse"]
    assert isinstance(errors, list)
    for name, error in zip(header.tensors, errors, strict=True):
        _, numbers, _ = tensor_in(tmp_path / "out.gguf", name)
        expected = torch.linalg.norm(numbers - source[name].float()) / torch.linalg.norm(source[name].float())
        assert error == pytest.approx(float(expected), rel=1e-3, abs=1e-7)
    largest = max(error for error in errors if isinstance(error, float))
    assert report["worst"][0]["rel_rmse"] == pytest.approx(largest, rel=1e-6)


def test_tensors_lie_in_the_order_of_execution(flux_file: Path, tmp_path: Path) -> None:
    convert(flux_file, "-o", tmp_path / "out.gguf", "--format", "Q8_0")
    header = read_gguf(tmp_path / "out.gguf")
    assert header.alignment == 256
    assert all(tensor.start % 256 == 0 for tensor in header.tensors.values())
    owners = [".".join(name.split(".")[:2]) for name in header.tensors if ".lin." not in name and "blocks" in name]
    expected = [f"{stack}.{number}" for stack in ("double_blocks", "single_blocks") for number in range(12)]
    assert list(dict.fromkeys(owners)) == expected
    modulation = [number for number, name in enumerate(header.tensors) if ".lin." in name]
    assert modulation == list(range(2, 2 + len(modulation)))  # after the two tensors outside of blocks, before these


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float) -> None:
    weights = torch.zeros(8, 64)
    weights[5, 7] = value
    save_file({"layers.0.bad.weight": weights, "layers.0.good.weight": torch.zeros(8, 64)}, tmp_path / "a.safetensors")
    for wanted in ("Q8_0", "F32"):
        convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", wanted, code=2)
        error = capsys.readouterr().err
        assert "layers.0.bad.weight" in error
        assert "row 5, column 7" in error
        assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_zeros_and_denormals(tmp_path: Path) -> None:
    tiny = torch.full((4, 256), 1e-42)
    save_file({"layers.0.zero.weight": torch.zeros(4, 256), "layers.0.tiny.weight": tiny}, tmp_path / "a.safetensors")
    for wanted in ("Q8_0", "Q4_K", "F32"):
        convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", wanted)
        assert not tensor_in(tmp_path / "a.gguf", "layers.0.zero.weight")[1].any()
        assert torch.allclose(tensor_in(tmp_path / "a.gguf", "layers.0.tiny.weight")[1], tiny, atol=1e-41)


def test_a_number_too_large_for_the_type_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"layers.0.large.weight": torch.full((2, 256), 1e9)}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", "-o", tmp_path / "a.gguf", "--format", "Q4_K", code=2)
    assert "layers.0.large.weight cannot be stored as Q4_K" in capsys.readouterr().err
